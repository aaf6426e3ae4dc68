//! Syncthing, two of them, with discovery, relays and reports switched off and
//! its watcher at the shortest delay it takes.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use replicator_tests::machine;

use crate::process::Process;
use crate::system::{Place, System};

pub struct Syncthing {
    program: PathBuf,
    processes: Vec<Process>,
}

/// One of the two, as both configurations name it.
struct Device {
    id: String,
    name: &'static str,
    home: PathBuf,
    port: u16,
}

impl Syncthing {
    pub fn installed() -> Option<Self> {
        Some(Self { program: machine::program("syncthing")?, processes: Vec::new() })
    }

    fn device(&self, name: &'static str, state: &Path) -> Result<Device> {
        let home = state.join(format!("syncthing-{name}"));
        let mut generate = Command::new(&self.program);
        generate.args(["generate", "--no-default-folder", "--skip-port-probing"]);
        generate.arg(format!("--home={}", home.display())).env("HOME", state);
        machine::run(&mut generate)?;
        let config = fs::read_to_string(home.join("config.xml"))?;
        let id = config
            .split("<device id=\"")
            .nth(1)
            .and_then(|rest| rest.split('"').next())
            .context("syncthing generated no device id")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Device { id: id.to_string(), name, home, port })
    }
}

impl System for Syncthing {
    fn name(&self) -> &str {
        "syncthing"
    }

    fn start(&mut self, place: &Place) -> Result<()> {
        let devices = [self.device("b", &place.state)?, self.device("a", &place.state)?];
        for (device, root) in devices.iter().zip([&place.b, &place.a]) {
            // Its mark that a folder is really there.
            fs::create_dir(root.join(".stfolder"))?;
            fs::write(device.home.join("config.xml"), configuration(device, &devices, root))?;
        }
        for device in &devices {
            let mut serve = Command::new(&self.program);
            serve.args(["serve", "--no-browser", "--no-restart", "--no-upgrade"]);
            serve.arg(format!("--home={}", device.home.display())).env("HOME", &place.state);
            // Without its monitor, a parent whose times would hide the child's.
            serve.env("STMONITORED", "yes");
            let log = place.state.join(format!("syncthing-{}.log", device.name));
            self.processes.push(Process::start(&mut serve, &log)?);
        }
        Ok(())
    }

    fn wire_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    fn cpu_seconds(&self) -> Result<f64> {
        self.processes.iter().map(Process::cpu_seconds).sum()
    }

    fn stop(&mut self) -> Result<()> {
        self.processes.drain(..).try_for_each(|mut process| process.stop())
    }
}

fn configuration(own: &Device, devices: &[Device], root: &Path) -> String {
    let members: String =
        devices.iter().map(|device| format!("<device id=\"{}\"></device>", device.id)).collect();
    let addresses: String = devices
        .iter()
        .map(|device| {
            format!(
                "<device id=\"{}\" name=\"{}\" compression=\"metadata\">\
                 <address>tcp://127.0.0.1:{}</address></device>",
                device.id, device.name, device.port
            )
        })
        .collect();
    format!(
        "<configuration version=\"35\">\
         <folder id=\"f\" label=\"f\" path=\"{}\" type=\"sendreceive\" rescanIntervalS=\"3600\" \
         fsWatcherEnabled=\"true\" fsWatcherDelayS=\"1\" ignorePerms=\"false\" \
         autoNormalize=\"true\">{members}</folder>{addresses}\
         <gui enabled=\"false\"></gui><options>\
         <listenAddress>tcp://127.0.0.1:{}</listenAddress>\
         <globalAnnounceEnabled>false</globalAnnounceEnabled>\
         <localAnnounceEnabled>false</localAnnounceEnabled>\
         <relaysEnabled>false</relaysEnabled><natEnabled>false</natEnabled>\
         <urAccepted>-1</urAccepted><autoUpgradeIntervalH>0</autoUpgradeIntervalH>\
         <crashReportingEnabled>false</crashReportingEnabled>\
         <startBrowser>false</startBrowser>\
         <reconnectionIntervalS>1</reconnectionIntervalS>\
         <setLowPriority>false</setLowPriority></options></configuration>\n",
        root.display(),
        own.port
    )
}
