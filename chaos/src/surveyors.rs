//! A client that asks what directories hold.
//!
//! Invariants:
//! - What is recorded is of the revision that the answer names.

use quorate_checkers::history::{Child, Directory, DirectoryStat};

use crate::native::Native;

/// Asks until it is over.
pub(crate) async fn live(mut client: Native) {
    while client.town.think(&mut client.dice, 10).await {
        let path = [client.town.keys(), client.town.held(), client.town.sequence()][client.dice.below(3)].clone();
        let found = if client.dice.happens(500) { list(&client, path).await } else { stat(&client, path).await };
        match found {
            Ok(directory) => client.town.recorder.directory(directory),
            Err(error) => client.town.recorder.look_at(&error),
        }
    }
}

async fn list(client: &Native, path: String) -> quorate::Result<Directory> {
    let answer = client.client.list(path.clone()).page_size(10_000).await?;
    let children = answer.children.into_iter().map(|child| Child {
        name: child.name.as_str().into(),
        is_key: child.is_key,
        is_directory: child.is_directory,
    });
    let (revision, children) = (answer.header.revision.get(), Some(children.collect()));
    Ok(Directory { path: path.into(), revision, children, stat: None })
}

async fn stat(client: &Native, path: String) -> quorate::Result<Directory> {
    let answer = client.client.stat(path.clone()).await?;
    let stat =
        answer.directory.map_or(DirectoryStat { children: 0, children_revision: 0, next_sequence: 0 }, |directory| {
            DirectoryStat {
                children: directory.children,
                children_revision: directory.children_revision.get(),
                next_sequence: u64::try_from(directory.next_sequence).unwrap_or(u64::MAX),
            }
        });
    Ok(Directory { path: path.into(), revision: answer.header.revision.get(), children: None, stat: Some(stat) })
}
