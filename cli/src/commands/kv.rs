//! `get`, `put` and `delete`: single keys, of any bytes.
//!
//! Invariants:
//! - `get` prints the value byte for byte, so that it pipes.

use std::time::Duration;

use clap::Args;
use quorate::{Client, Key, LeaseId, Revision};
use serde_json::json;

use crate::failure::Failure;
use crate::input::{self, Value};
use crate::output::{Output, printable};
use crate::pages::{Pages, Span};
use crate::render::{self, short_value};

/// Examples for the help.
pub const GET_EXAMPLES: &str = "\
Without a terminal exactly the bytes of the value are printed. Exit code 3 when the key does not exist.

Examples:
  quorate get /config/db/url
  quorate get /config/logo > logo.png
  quorate get /config/db/url --revision 42      as it was at revision 42
  quorate get /config/db/url --output json      value, revisions, version, lease, times
  quorate get /config/db --prefix               all keys that start so, one a line";

/// Flags of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Key: any bytes; a path such as /config/db has a place in the tree
    #[arg(value_parser = input::key_parser())]
    pub key: Key,
    /// Read as of this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    pub revision: Option<i64>,
    /// All keys that start with KEY, in byte order, as lines `key<TAB>value`
    #[arg(long)]
    pub prefix: bool,
    /// With --prefix: at most so many keys
    #[arg(long, value_name = "COUNT", requires = "prefix", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// With --prefix: keys without their values
    #[arg(long, requires = "prefix")]
    pub keys_only: bool,
    /// Answer from the member's own state, which may be behind, but needs no quorum
    #[arg(long)]
    pub serializable: bool,
}

/// Examples for the help.
pub const PUT_EXAMPLES: &str = "\
Values: the argument itself, @FILE for the content of a file, - for stdin, @@text for \"@text\".
Exit code 4 when an --if-… condition does not hold.

Examples:
  quorate put /config/db/url postgres://db:5432
  quorate put /config/logo @logo.png
  date | quorate put /last-run -
  quorate put /workers/7 10.0.0.7:80 --ttl 30s        gone 30 s later
  quorate put /workers/7 10.0.0.7:80 --lease 6f3a…    gone when the lease ends
  quorate put /config/db/url x --if-revision 42            only if nobody changed it since
  quorate put /queue/job data --sequential                 prints the key that was made";

/// Flags of `put`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct PutArgs {
    /// Key
    #[arg(value_parser = input::key_parser())]
    pub key: Key,
    /// Value: text, @FILE, or - for stdin
    #[arg(value_parser = Value::parser(), allow_hyphen_values = true)]
    pub value: Value,
    /// The key ends with this lease
    #[arg(long, value_name = "LEASE", value_parser = input::lease_id, group = "owner")]
    pub lease: Option<LeaseId>,
    /// The key ends after so long (500ms to 10 years); the next put of the key takes that back
    #[arg(long, value_name = "DURATION", value_parser = input::duration, group = "owner")]
    pub ttl: Option<Duration>,
    /// The key keeps the lease that it has
    #[arg(long, group = "owner")]
    pub keep_lease: bool,
    /// Only if the key does not exist
    #[arg(long, group = "expect")]
    pub if_absent: bool,
    /// Only if the key exists
    #[arg(long, group = "expect")]
    pub if_present: bool,
    /// Only if the key was last changed in this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..), group = "expect")]
    pub if_revision: Option<i64>,
    /// Only if the parent path exists, as a key or as a directory
    #[arg(long)]
    pub must_have_parent: bool,
    /// KEY is a directory; the key written is KEY/<next number of the directory, 20 digits>
    #[arg(long)]
    pub sequential: bool,
    /// Print what stood there before
    #[arg(long)]
    pub previous: bool,
}

/// Examples for the help.
pub const DELETE_EXAMPLES: &str = "\
Exit code 3 when there was nothing to delete (see --ignore-missing), 4 when an --if-… condition does not hold.

Examples:
  quorate delete /config/db/url
  quorate delete /config/db --recursive            the path and everything below it, in one revision
  quorate delete /config/db --must-be-empty        refused while it has children
  quorate delete /lock --if-revision 42            only if nobody changed it since
  quorate delete user: --prefix                    all keys that start so";

/// Flags of `delete`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct DeleteArgs {
    /// Key
    #[arg(value_parser = input::key_parser())]
    pub key: Key,
    /// The path and everything below it
    #[arg(long, short, group = "scope")]
    pub recursive: bool,
    /// All keys that start with KEY
    #[arg(long, group = "scope")]
    pub prefix: bool,
    /// Refuse if the path has children
    #[arg(long, group = "scope")]
    pub must_be_empty: bool,
    /// Only if the key was last changed in this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    #[arg(conflicts_with_all = ["recursive", "prefix"])]
    pub if_revision: Option<i64>,
    /// Succeed when there was nothing to delete
    #[arg(long)]
    pub ignore_missing: bool,
}

/// Prints a value, or the pairs under a prefix.
pub async fn get(args: GetArgs, client: &Client, output: Output) -> Result<(), Failure> {
    if args.prefix {
        return get_prefix(args, client, output).await;
    }
    let mut call = client.get(&args.key);
    if let Some(revision) = args.revision {
        call = call.at(Revision(revision));
    }
    if args.serializable {
        call = call.serializable();
    }
    let Some(kv) = call.await?.kv else {
        return Err(Failure::NotFound(format!("{} does not exist", args.key)));
    };
    if output.is_json() { output.json(&render::key_value(&kv, true)) } else { output.raw(&kv.value) }
}

async fn get_prefix(args: GetArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut pages = Pages::new(Span::prefix(args.key.as_bytes()), args.revision, args.limit);
    pages.keys_only = args.keys_only;
    pages.serializable = args.serializable;
    while let Some(page) = pages.next(client).await? {
        for kv in page {
            if output.is_json() {
                output.json_line(&render::key_value(&kv, !args.keys_only))?;
            } else if args.keys_only {
                output.line(&printable(&kv.key))?;
            } else {
                output.line(&format!("{}\t{}", printable(&kv.key), printable(&kv.value)))?;
            }
        }
    }
    Ok(())
}

/// Writes a key.
pub async fn put(args: PutArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let value = args.value.read()?;
    let mut call = client.put(&args.key, value);
    if let Some(lease) = args.lease {
        call = call.lease(lease);
    }
    if let Some(ttl) = args.ttl {
        call = call.ttl(ttl);
    }
    if args.keep_lease {
        call = call.keep_lease();
    }
    if args.if_absent {
        call = call.expect_absent();
    }
    if args.if_present {
        call = call.expect_present();
    }
    if let Some(revision) = args.if_revision {
        call = call.expect_revision(Revision(revision));
    }
    if args.must_have_parent {
        call = call.must_have_parent();
    }
    if args.sequential {
        call = call.sequential();
    }
    if args.previous {
        call = call.previous();
    }
    let written = call.await?;
    let revision = written.header.revision;
    output.either(
        || {
            let lease = written.lease.map(|lease| format!(", lease {lease}")).unwrap_or_default();
            let lost =
                (args.previous && written.replayed).then(|| ", before: not known, as it was sent twice".to_owned());
            let previous = written.previous.as_ref().map(|kv| format!(", before: {}", short_value(&kv.value))).or(lost);
            format!("{} at revision {revision}{lease}{}", printable(&written.key), previous.unwrap_or_default())
        },
        || {
            let previous = written.previous.as_ref().map(|kv| render::key_value(kv, true));
            let lease = render::lease(written.lease);
            let mut rest = json!({"revision": revision.get(), "lease": lease, "previous": previous});
            if written.replayed {
                rest["replayed"] = true.into();
            }
            render::with_key(&written.key, rest)
        },
    )
}

/// Deletes a key, a subtree or a prefix.
pub async fn delete(args: DeleteArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut call = if args.recursive {
        client.delete_subtree(&args.key)
    } else if args.prefix {
        let span = Span::prefix(args.key.as_bytes());
        client.delete_range(span.start, span.end)
    } else {
        client.delete(&args.key)
    };
    if args.must_be_empty {
        call = call.must_be_empty();
    }
    if let Some(revision) = args.if_revision {
        call = call.expect_revision(Revision(revision));
    }
    let deleted = call.await?;
    let revision = deleted.header.revision;
    if deleted.deleted == 0 && !args.ignore_missing {
        return Err(Failure::NotFound(format!("{} does not exist", args.key)));
    }
    output.either(
        || match deleted.deleted {
            0 => "nothing to delete".to_owned(),
            1 => format!("1 key deleted at revision {revision}"),
            count => format!("{count} keys deleted at revision {revision}"),
        },
        || json!({"deleted": deleted.deleted, "revision": revision.get()}),
    )
}
