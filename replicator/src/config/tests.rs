//! Settings, good and bad.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn config(text: &str) -> Result<Config, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("replicator.toml");
    std::fs::write(&path, text).unwrap();
    Config::from_settings(&Settings::from_file(&path)?)
}

const NEEDED: &str = "root = '/srv/a'\nstate_dir = '/var/lib/r'\npassword_file = '/etc/pw'\n";

fn complaint(extra: &str) -> String {
    let text = config(&format!("{NEEDED}{extra}")).unwrap_err().to_string();
    assert!(!text.contains('\n'), "more than one line: {text}");
    text
}

#[test]
fn three_keys_are_enough() {
    let config = config(NEEDED).unwrap();
    assert_eq!(config.root, Path::new("/srv/a"));
    assert_eq!(config.listen, "0.0.0.0:7400".parse().unwrap());
    assert_eq!(config.cluster, "replicator");
    assert_eq!(config.max_delay, Duration::from_secs(10));
    assert_eq!(config.stream_delay, Duration::from_millis(50));
    assert_eq!(config.min_free, MinFree::Percent(1));
    assert!(!config.name.is_empty());
}

#[test]
fn words_of_lsyncd_are_understood() {
    let text = "source = '/srv/a'\ntarget = ['b:1', 'c']\ndelay = 5\n";
    let config = config(&format!("{text}state_dir = '/s'\npassword_file = '/p'\n")).unwrap();
    assert_eq!(config.root, Path::new("/srv/a"));
    assert_eq!(config.peers, ["b:1".parse().unwrap(), "c:7400".parse().unwrap()]);
    assert_eq!(config.delay, Duration::from_secs(5));
}

#[test]
fn a_long_delay_lengthens_the_longest_delay() {
    let config = config(&format!("{NEEDED}delay = '1m'")).unwrap();
    assert_eq!([config.max_delay, config.stream_delay], [Duration::from_secs(60); 2]);
    assert!(complaint("delay = '1m'\nmax_delay = '1s'").contains("shorter than delay"));
}

#[test]
fn every_mistake_is_one_line_that_says_what_to_do() {
    for (extra, needle) in [
        ("pears = ['a:1']", ":4: unknown key 'pears': did you mean 'peers'?"),
        ("zzzzzzzzz = 1", ":4: unknown key 'zzzzzzzzz'"),
        ("max-delay = '1s'", "did you mean 'max_delay'?"),
        ("delay = 'soon'", ":4: delay: 'soon' is no duration"),
        ("peers = ['a:x']", "peers: 'a:x' has a port that is no number"),
        ("listen = '7400'", "listen: '7400' is no ADDR:PORT"),
        ("advertise = '0.0.0.0:1'", "cannot be dialled"),
        ("capture = 'epbf'", "is none of auto ebpf fanotify inotify"),
        ("min_free = '101%'", "is no size"),
        ("log = 'loud'", "is none of error warn info"),
        ("delete_brake = '0%'", "is neither off nor a share"),
        ("retention = '1ms'", "is too short"),
        ("name = true", "name: 'true' is a boolean; give a text"),
        ("name = ['a', 'b']", "is given twice"),
        ("root = '/x'", ":4: duplicate key"),
        ("[folder]\nx = 1", "unknown key 'folder'"),
        ("listen = ", ":4: "),
    ] {
        let text = complaint(extra);
        assert!(text.contains(needle), "{extra}: {text}");
    }
    let inside = config(&NEEDED.replace("/etc/pw", "/srv/a/b/pw")).unwrap_err();
    assert!(inside.to_string().contains("lies inside the root /srv/a and"), "{inside}");
    let missing = config("root = '/srv'").unwrap_err();
    assert_eq!(
        missing.to_string(),
        "state_dir is missing: give --state-dir or set state_dir in the --config file"
    );
    assert_eq!(missing.exit_code(), 78);
}

#[test]
fn a_state_directory_inside_the_root_is_refused_through_links_too() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::os::unix::fs::symlink(&root, folder.path().join("link")).unwrap();
    assert!(is_inside(&folder.path().join("link/new/state"), &root));
    assert!(!is_inside(&folder.path().join("state"), &root));
    assert!(is_inside(&root, &folder.path().join("link")));
}

#[test]
fn flags_win_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("c.toml");
    std::fs::write(&path, format!("{NEEDED}delay = '1s'\npeers = ['a:1']")).unwrap();
    let mut settings = Settings::default();
    settings.flag(Key::Delay, ["2s".into()]);
    settings.fill_from(Settings::from_file(&path).unwrap());
    let config = Config::from_settings(&settings).unwrap();
    assert_eq!(config.delay, Duration::from_secs(2));
    assert_eq!(config.peers.len(), 1);
    settings.flag(Key::Delay, ["x".into()]);
    let text = Config::from_settings(&settings).unwrap_err().to_string();
    assert!(text.starts_with("--delay: 'x' is no duration"), "{text}");
}

#[test]
fn the_password_loses_one_line_end_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let mut config = config(NEEDED).unwrap();
    config.password_file = path.clone();
    for (content, expected) in [("a b \n", &b"a b "[..]), ("x\n\n", b"x\n"), ("x\r\n", b"x")] {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert_eq!(config.password().unwrap().as_slice(), expected);
    }
    std::fs::write(&path, "\n").unwrap();
    assert!(config.password().unwrap_err().to_string().contains("is empty"));
    std::fs::write(&path, vec![b'x'; PASSWORD_BYTES_MAX + 1]).unwrap();
    assert!(config.password().unwrap_err().to_string().contains("more than"));
    config.password_file = folder.path().join("none");
    let missing = config.password().unwrap_err();
    assert!(missing.to_string().starts_with("cannot read the password file"));
    assert_eq!(missing.exit_code(), 78);
    config.password_file = folder.path().into();
    assert!(config.password().unwrap_err().to_string().contains("directory"));
}
