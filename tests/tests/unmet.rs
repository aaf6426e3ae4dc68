//! What `status` says of those who should be peers and are none.

use std::path::Path;
use std::time::Duration;

use replicator_tests::{Cluster, Node, poll, write_password};
use serde_json::Value;

/// A name server that is not there is asked for longer than a machine.
const LIMIT: Duration = Duration::from_secs(40);

/// What is said of one address.
fn told(node: &Node, address: &str) -> Vec<Value> {
    let status = node.status().unwrap();
    status.peers().iter().filter(|peer| peer["address"] == address).cloned().collect()
}

fn says(node: &Node, address: &str, why: &str) -> bool {
    let told = told(node, address);
    told.len() == 1
        && told[0]["connected"] == false
        && told[0]["last_error"].as_str().is_some_and(|error| error.contains(why))
}

#[test]
fn addresses_where_nobody_answers_are_shown_with_the_reason() {
    const TYPO: &str = "typo.invalid:7400";
    let mut cluster = Cluster::new(2);
    cluster[0].settings.options = ["--peer", TYPO].map(Into::into).into();
    let silent = format!("127.0.0.1:{}", cluster[1].settings.port);
    cluster[0].start().unwrap();
    poll::eventually(LIMIT, "both are shown", || {
        says(&cluster[0], TYPO, "resolved") && says(&cluster[0], &silent, "no answer")
    });
    let text = cluster[0].command(&["status"]).unwrap().stdout;
    for word in ["0 of 2 connected", TYPO, &silent, "not reached for ", "last error: no answer"] {
        assert!(text.contains(word), "{word}: {text}");
    }

    cluster[1].start().unwrap();
    cluster.assert_same();
    let told = told(&cluster[0], &silent);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&told[0]["connected"], &told[0]["last_error"]), (&true.into(), &Value::Null));
    assert!(says(&cluster[0], TYPO, "resolved"), "the mistake is still there");
    assert_eq!(cluster[1].status().unwrap().peers().len(), 1);
}

#[test]
fn a_refusal_is_shown_until_it_is_mended() {
    let mut cluster = Cluster::new(2);
    let right = cluster[1].settings.password.clone();
    let wrong = write_password(cluster.dir(), "wrong", "mistyped\n");
    cluster[0].start().unwrap();
    // Of a node that was never met, and of one that was.
    for _ in 0..2 {
        restart_with(&mut cluster, &wrong);
        for (node, other) in [(0, 1), (1, 0)] {
            let address = format!("127.0.0.1:{}", cluster[other].settings.port);
            poll::eventually(LIMIT, "both say what is wrong", || {
                says(&cluster[node], &address, "password")
            });
        }
        restart_with(&mut cluster, &right);
        cluster.assert_same();
        for node in cluster.nodes() {
            let status = node.status().unwrap();
            let [peer] = status.peers() else { panic!("not one peer: {status}") };
            assert_eq!(peer["connected"], true, "{status}");
            assert_eq!(peer["last_error"], Value::Null, "{status}");
        }
    }
}

fn restart_with(cluster: &mut Cluster, password: &Path) {
    if cluster[1].pid().is_some() {
        cluster[1].stop().unwrap();
    }
    cluster[1].settings.password = password.to_owned();
    cluster[1].start().unwrap();
}
