//! A client that asks what directories hold.
//!
//! Invariants:
//! - What is recorded is of the revision that the answer names.

use std::time::Duration;

use quorate_proto::v1;
use quorate_tests::checkers::history::{Child, Directory, DirectoryStat};
use tonic::Status;

use crate::clients::{Client, DIRECTORY};
use crate::way::ask;

const PATIENCE: Duration = Duration::from_secs(2);

/// Asks until it is over.
pub async fn live(mut client: Client) {
    while !client.town.is_over() {
        client.think().await;
        let path = *client.dice.of(&["/", DIRECTORY]);
        let found = if client.dice.happens(500) { list(&client, path).await } else { stat(&client, path).await };
        match found {
            Ok(directory) => client.town.recorder.directory(directory),
            Err(status) => {
                client.town.recorder.look_at(&status);
                client.move_on();
            }
        }
    }
}

async fn list(client: &Client, path: &str) -> Result<Directory, Status> {
    let mut kvs = v1::kv_client::KvClient::new(client.way());
    let request = v1::ListRequest { path: path.to_owned(), ..Default::default() };
    let answer = ask(PATIENCE, request, |request| async move { kvs.list(request).await }).await?;
    let children = answer.children.into_iter().map(|child| Child {
        name: child.name.as_str().into(),
        is_key: child.is_key,
        is_directory: child.is_directory,
    });
    let revision = answer.header.unwrap().revision;
    Ok(Directory { path: path.into(), revision, children: Some(children.collect()), stat: None })
}

async fn stat(client: &Client, path: &str) -> Result<Directory, Status> {
    let mut kvs = v1::kv_client::KvClient::new(client.way());
    let request = v1::StatRequest { path: path.to_owned(), ..Default::default() };
    let answer = ask(PATIENCE, request, |request| async move { kvs.stat(request).await }).await?;
    let number = |number: i64| u64::try_from(number).unwrap();
    let stat =
        answer.directory.map_or(DirectoryStat { children: 0, children_revision: 0, next_sequence: 0 }, |directory| {
            DirectoryStat {
                children: number(directory.children),
                children_revision: directory.children_revision,
                next_sequence: number(directory.next_sequence),
            }
        });
    Ok(Directory { path: path.into(), revision: answer.header.unwrap().revision, children: None, stat: Some(stat) })
}
