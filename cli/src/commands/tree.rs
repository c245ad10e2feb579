//! `ls`, `tree`, `stat`, `cp` and `mv`: the key space as a tree of paths.
//!
//! Invariants:
//! - What is listed over several pages is of one revision.

use clap::Args;
use quorate::{Child, Client, Revision};
use serde_json::{Value as Json, json};

use crate::failure::Failure;
use crate::input;
use crate::output::{Output, Style, printable};
use crate::pages::{Pages, Span};
use crate::picture::{Node, Shown};
use crate::render::{self, short_value};

/// Children of a page.
const PAGE: u32 = 1000;

/// Examples for the help.
pub const LS_EXAMPLES: &str = "\
A name with a / after it has children. Exit code 3 when neither a key nor a directory stands there.

Examples:
  quorate ls
  quorate ls /config
  quorate ls /config --long               with values, revisions and leases
  quorate ls /config --revision 42        as it was at revision 42";

/// Flags of `ls`.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Directory
    #[arg(default_value = "/", value_parser = input::directory)]
    pub path: String,
    /// With value, version, revision and lease of each child that is a key
    #[arg(long, short)]
    pub long: bool,
    /// List as of this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    pub revision: Option<i64>,
    /// At most so many children
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Answer from the member's own state, which may be behind, but needs no quorum
    #[arg(long)]
    pub serializable: bool,
}

/// Examples for the help.
pub const TREE_EXAMPLES: &str = "\
Examples:
  quorate tree
  quorate tree /config --values
  quorate tree / --depth 2
  quorate tree /config --revision 42      as it was at revision 42";

/// Flags of `tree`.
#[derive(Debug, Args)]
pub struct TreeArgs {
    /// Directory
    #[arg(default_value = "/", value_parser = input::directory)]
    pub path: String,
    /// With values
    #[arg(long, short)]
    pub values: bool,
    /// At most so many levels
    #[arg(long, short, value_name = "LEVELS", value_parser = clap::value_parser!(u64).range(1..))]
    pub depth: Option<u64>,
    /// At most so many keys are read
    #[arg(long, value_name = "COUNT", default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
    /// As of this revision
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    pub revision: Option<i64>,
    /// Answer from the member's own state, which may be behind, but needs no quorum
    #[arg(long)]
    pub serializable: bool,
}

/// Examples for the help.
pub const STAT_EXAMPLES: &str = "\
Exit code 3 when neither a key nor a directory stands there.

Examples:
  quorate stat /config
  quorate stat /config/db/url --output json";

/// Flags of `stat`.
#[derive(Debug, Args)]
pub struct StatArgs {
    /// Path
    #[arg(value_parser = input::directory)]
    pub path: String,
}

/// Examples for the help.
pub const CP_EXAMPLES: &str = "\
Copies are new keys (version 1). Exit code 3 when nothing stands at FROM, 4 when something stands at TO.

Examples:
  quorate cp /config/db /config/db-old
  quorate cp /services/web /services/web2 --keep-leases";

/// Examples for the help.
pub const MV_EXAMPLES: &str = "\
What is moved are new keys (version 1). Exit code 3 when nothing stands at FROM, 4 when something stands at TO.

Examples:
  quorate mv /config/db /config/database
  quorate mv /services/web /services/web2 --keep-leases";

/// Flags of `cp` and `mv`.
#[derive(Debug, Args)]
pub struct CopyArgs {
    /// Path to take
    #[arg(value_parser = input::path)]
    pub from: String,
    /// Path to make
    #[arg(value_parser = input::path)]
    pub to: String,
    /// Each key keeps its lease; else the new keys have none
    #[arg(long)]
    pub keep_leases: bool,
}

/// Lists direct children, page by page.
pub async fn ls(args: LsArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut listing = Listing { children: Vec::new(), revision: 0 };
    let mut cursor = None;
    let mut printed_any = false;
    loop {
        let mut call = client.list(&*args.path).page_size(u32::try_from(left).unwrap_or(PAGE).min(PAGE));
        if args.long || output.is_json() {
            call = call.with_values();
        }
        if let Some(revision) = args.revision {
            call = call.at(Revision(revision));
        }
        if args.serializable {
            call = call.serializable();
        }
        if let Some(cursor) = cursor {
            call = call.after(cursor);
        }
        let page = call.page().await?;
        left = left.saturating_sub(page.children.len() as u64);
        printed_any |= !page.children.is_empty();
        listing.revision = page.header.revision.get();
        if args.long || output.is_json() {
            listing.children.extend(page.children);
        } else {
            page.children.iter().try_for_each(|child| output.line(&child_name(child, output)))?;
        }
        cursor = page.next;
        if cursor.is_none() || left == 0 {
            break;
        }
    }
    if !printed_any {
        must_exist(&args, client).await?;
    }
    listing.print(&args, output)
}

/// An empty listing is right for a key without children, and for the root.
async fn must_exist(args: &LsArgs, client: &Client) -> Result<(), Failure> {
    if args.path == "/" || args.revision.is_some() {
        return Ok(());
    }
    let found = client.stat(&*args.path).await?;
    if found.kv.is_none() && found.directory.is_none() {
        return Err(Failure::NotFound(format!("{} does not exist", args.path)));
    }
    Ok(())
}

struct Listing {
    children: Vec<Child>,
    revision: i64,
}

impl Listing {
    /// What was not printed while it came.
    fn print(&self, args: &LsArgs, output: Output) -> Result<(), Failure> {
        if output.is_json() {
            let children: Vec<Json> = self.children.iter().map(child_json).collect();
            return output.json(&json!({"path": args.path, "revision": self.revision, "children": children}));
        }
        if !args.long {
            return Ok(());
        }
        let row = |child: &Child| {
            // Without colours: a table counts characters.
            let mark = if child.is_directory { "/" } else { "" };
            let name = format!("{}{mark}", printable(child.name.as_bytes()));
            match &child.kv {
                Some(kv) => vec![
                    name,
                    kv.version.to_string(),
                    kv.mod_revision.to_string(),
                    render::lease_text(kv.lease),
                    render::time(kv.modified_unix_ms),
                    short_value(&kv.value),
                ],
                None => vec![name],
            }
        };
        let rows: Vec<Vec<String>> = self.children.iter().map(row).collect();
        output.table(&["NAME", "VERSION", "REVISION", "LEASE", "MODIFIED", "VALUE"], &rows)
    }
}

fn child_name(child: &Child, output: Output) -> String {
    let name = printable(child.name.as_bytes());
    if child.is_directory { output.paint.paint(Style::Bold, &format!("{name}/")) } else { name }
}

fn child_json(child: &Child) -> Json {
    let kv = child.kv.as_ref().map(|kv| render::key_value(kv, true));
    json!({"name": child.name, "is_key": child.is_key, "is_directory": child.is_directory, "kv": kv})
}

/// Draws everything below a directory.
pub async fn tree(args: TreeArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let depth = args.depth.map_or(usize::MAX, |depth| usize::try_from(depth).unwrap_or(usize::MAX));
    let (root, cut) = read_tree(&args, client).await?;
    if root.is_empty() && args.path != "/" {
        return Err(Failure::NotFound(format!("nothing stands below {}", args.path)));
    }
    if cut {
        eprintln!("quorate: only the first {} keys are shown; see --limit", args.limit);
    }
    if output.is_json() {
        return output.json(&root.json(&args.path, depth, args.values));
    }
    output.line(&output.paint.paint(Style::Bold, &args.path))?;
    let shown = Shown { depth, values: args.values, paint: output.paint };
    root.lines(shown).iter().try_for_each(|line| output.line(line))?;
    let (directories, keys) = root.count();
    output.line(&output.paint.paint(Style::Dim, &format!("\ndirectories: {directories}, keys: {keys}")))
}

async fn read_tree(args: &TreeArgs, client: &Client) -> Result<(Node, bool), Failure> {
    let span = Span::below(&args.path);
    let skipped = span.start.len();
    let mut pages = Pages::new(span, args.revision, Some(args.limit));
    pages.keys_only = !args.values;
    pages.serializable = args.serializable;
    let mut root = Node::default();
    while let Some(page) = pages.next(client).await? {
        for kv in page {
            root.insert(&kv.key[skipped..], kv.value);
        }
    }
    Ok((root, pages.is_cut()))
}

/// Shows what stands at a path.
pub async fn stat(args: StatArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let found = client.stat(&*args.path).await?;
    if found.kv.is_none() && found.directory.is_none() {
        return Err(Failure::NotFound(format!("{} does not exist", args.path)));
    }
    if output.is_json() {
        let key = found.kv.as_ref().map(|kv| render::key_value(kv, false));
        let directory = found.directory.as_ref().map(|directory| {
            json!({
                "children": directory.children, "children_revision": directory.children_revision.get(),
                "next_sequence": directory.next_sequence,
            })
        });
        return output.json(&json!({
            "path": args.path, "revision": found.header.revision.get(), "key": key, "directory": directory,
            "value_bytes": found.value_bytes,
        }));
    }
    output.line(&output.paint.paint(Style::Bold, &args.path))?;
    if let Some(kv) = &found.kv {
        let field = |name: &str, text: String| output.line(&format!("  {name:<18}{text}"));
        field("value", format!("{} bytes", found.value_bytes))?;
        field("version", kv.version.to_string())?;
        field("created", format!("revision {}, {}", kv.create_revision, render::time(kv.created_unix_ms)))?;
        field("modified", format!("revision {}, {}", kv.mod_revision, render::time(kv.modified_unix_ms)))?;
        field("lease", render::lease_text(kv.lease))?;
    }
    if let Some(directory) = &found.directory {
        let field = |name: &str, text: String| output.line(&format!("  {name:<18}{text}"));
        field("children", directory.children.to_string())?;
        field("children changed", format!("revision {}", directory.children_revision))?;
        field("next sequence", directory.next_sequence.to_string())?;
    }
    Ok(())
}

/// Copies a subtree.
pub async fn copy(args: CopyArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut call = client.copy(&*args.from, &*args.to);
    if args.keep_leases {
        call = call.keep_leases();
    }
    let copied = call.await?;
    report_copy("copied", &args, copied.keys, copied.header.revision.get(), output)
}

/// Moves a subtree.
pub async fn rename(args: CopyArgs, client: &Client, output: Output) -> Result<(), Failure> {
    let mut call = client.rename(&*args.from, &*args.to);
    if args.keep_leases {
        call = call.keep_leases();
    }
    let moved = call.await?;
    report_copy("moved", &args, moved.keys, moved.header.revision.get(), output)
}

fn report_copy(verb: &str, args: &CopyArgs, count: u64, revision: i64, output: Output) -> Result<(), Failure> {
    output.either(
        || format!("{count} {} {verb} to {} at revision {revision}", if count == 1 { "key" } else { "keys" }, args.to),
        || json!({"from": args.from, "to": args.to, verb: count, "revision": revision}),
    )
}
