//! The same over real connections: what the virtual world assumes of the
//! transport holds.

use std::sync::LazyLock;

use tokio::task::JoinHandle;

use super::*;
use crate::transport::{Event, Identity, Options, Secret, Transport};

static SECRET: LazyLock<Secret> = LazyLock::new(|| Secret::derive(b"password", "test").unwrap());

struct Wired {
    transport: Transport,
    driver: JoinHandle<()>,
    _state: tempfile::TempDir,
}

impl Wired {
    fn start(seeds: Vec<Address>) -> Self {
        let state = tempfile::tempdir().unwrap();
        let options = Options {
            identity: Identity::load_or_create(state.path()).unwrap(),
            secret: SECRET.clone(),
            listen: "127.0.0.1:0".parse().unwrap(),
            name: "wired".into(),
        };
        let (transport, mut events) = Transport::start(options).unwrap();
        let me = Member { id: transport.id(), address: transport.local_addr(), life: 1 };
        let handle = transport.clone();
        let driver = tokio::spawn(async move {
            let mut cluster = Cluster::new(me, seeds, Vec::new(), Instant::now(), 1);
            loop {
                while let Some(output) = cluster.poll() {
                    match output {
                        // A datagram may be lost, here as well.
                        Output::SendDatagram { to, bytes } => drop(handle.datagram(to, bytes)),
                        Output::Dial(address) => handle.dial(address),
                        Output::Forget(address) => handle.forget(&address),
                        Output::Disconnect(peer) => handle.disconnect(peer),
                        Output::MemberUp(_) | Output::MemberDown(_) => {}
                    }
                }
                let timeout = cluster.poll_timeout();
                let alarm = async {
                    match timeout {
                        Some(at) => tokio::time::sleep_until(at.into()).await,
                        None => std::future::pending().await,
                    }
                };
                let event = tokio::select! {
                    event = events.recv() => event,
                    () = alarm => {
                        cluster.handle_timeout(Instant::now());
                        continue;
                    }
                };
                let now = Instant::now();
                match event {
                    Some(Event::Up { peer, address, seen_from, .. }) => {
                        cluster.handle_up(now, peer, address, seen_from);
                    }
                    Some(Event::Down { peer, .. }) => cluster.handle_down(now, peer),
                    Some(Event::Datagram { from, payload }) => {
                        cluster.handle_datagram(now, from, &payload);
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        });
        Self { transport, driver, _state: state }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_nodes_that_know_one_become_a_mesh() {
    let first = Wired::start(vec![]);
    let seed = Address::from(first.transport.local_addr());
    let mut nodes = vec![first];
    nodes.extend((1..5).map(|_| Wired::start(vec![seed.clone()])));
    let mesh = async {
        while nodes.iter().any(|node| node.transport.peers().len() < 4) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), mesh).await.expect("no mesh");
    for node in nodes {
        node.transport.close().await;
        node.driver.abort();
    }
}
