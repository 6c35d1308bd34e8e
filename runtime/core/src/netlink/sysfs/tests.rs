//! Devices of a simulated `/sys`.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::symlink;

use super::*;

/// A `/sys` with a PCI network card, a virtio card, a card driven from user space, one without driver, and an auxiliary
/// device.
struct Fake(tempfile::TempDir);

impl Fake {
    fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        for driver in ["ixgbe", "virtio-pci", "vfio-pci", "uio_pci_generic", "igb_uio"] {
            fake.dir(&format!("sys/bus/pci/drivers/{driver}"));
        }
        fake.device("0000:00:04.0", Some("ixgbe"), &["net/enp0s4", "net/enp0s4d1"]);
        fake.device("0000:00:05.0", Some("virtio-pci"), &["virtio2/net/eth1"]);
        fake.device("0000:00:06.0", Some("vfio-pci"), &[]);
        fake.device("0000:00:07.0", Some("uio_pci_generic"), &[]);
        fake.device("0000:00:08.0", Some("igb_uio"), &[]);
        fake.device("0000:00:09.0", None, &["net/lost"]);
        fake.device("0000:00:0a.0", Some("ixgbe"), &["net"]);
        fake.device("0000:00:0b.0", Some("ixgbe"), &[]);
        fake.dir("sys/bus/auxiliary/devices/mlx5_core.sf.6/net/eth6");
        fake.dir("sys/bus/auxiliary/devices/mlx5_core.sf.7/net");
        fake.dir("sys/bus/auxiliary/devices/mlx5_core.sf.8");
        fake.dir("sys/devices/pci0000:00/0000:00:19.0/net/eno1");
        fake
    }

    fn dir(&self, path: &str) {
        fs::create_dir_all(self.0.path().join(path)).unwrap();
    }

    fn device(&self, address: &str, driver: Option<&str>, below: &[&str]) {
        let device = format!("sys/bus/pci/devices/{address}");
        self.dir(&device);
        below.iter().for_each(|path| self.dir(&format!("{device}/{path}")));
        if let Some(driver) = driver {
            let link = self.0.path().join(&device).join("driver");
            symlink(format!("../../drivers/{driver}"), link).unwrap();
        }
    }

    fn resolve(&self, query: &DeviceQuery) -> Result<Target, String> {
        Sysfs::new(self.0.path()).resolve(query)
    }

    fn pci(&self, address: &str) -> Result<Target, String> {
        self.resolve(&DeviceQuery { pci: Some(address.to_owned()), ..DeviceQuery::default() })
    }

    fn id(&self, id: &str) -> Result<Target, String> {
        self.resolve(&DeviceQuery { id: Some(id.to_owned()), ..DeviceQuery::default() })
    }
}

fn name(name: &str) -> Result<Target, String> {
    Ok(Target::Name(name.to_owned()))
}

fn failed(text: &str) -> Result<Target, String> {
    Err(format!("failed to find host device: {text}"))
}

#[test]
fn a_pci_device_has_links_of_its_own_or_of_its_virtio_bus() {
    let fake = Fake::new();
    assert_eq!(fake.pci("0000:00:04.0"), name("enp0s4"));
    assert_eq!(fake.pci("0000:00:05.0"), name("eth1"));
    assert_eq!(fake.pci("0000:00:0a.0"), failed("failed to find device name for pci address 0000:00:0a.0"));
    assert_eq!(fake.pci("0000:00:0b.0"), failed("no net directory under pci device 0000:00:0b.0"));
}

#[test]
fn user_space_drivers_leave_no_link() {
    let fake = Fake::new();
    for address in ["0000:00:06.0", "0000:00:07.0", "0000:00:08.0"] {
        assert_eq!(fake.pci(address), Ok(Target::UserSpace), "{address}");
        assert_eq!(fake.id(address), Ok(Target::UserSpace), "{address}");
        let named = DeviceQuery { name: Some("eth9".into()), pci: Some(address.into()), ..DeviceQuery::default() };
        assert_eq!(fake.resolve(&named), Ok(Target::UserSpace), "the driver is looked at whatever else is said");
    }
    let said = |pci: Option<&str>| DeviceQuery {
        name: Some("eth9".into()),
        user_space: true,
        pci: pci.map(ToOwned::to_owned),
        ..DeviceQuery::default()
    };
    assert_eq!(fake.resolve(&said(None)), Ok(Target::UserSpace));
    assert_eq!(fake.resolve(&said(Some("0000:00:04.0"))), name("eth9"), "the driver knows better");
}

#[test]
fn a_pci_device_must_have_a_driver() {
    let path = "/sys/bus/pci/devices/0000:00:09.0/driver";
    let text = format!("error with host device: lstat {path}: no such file or directory");
    assert_eq!(Fake::new().pci("0000:00:09.0"), Err(text));
    let path = "/sys/bus/pci/devices/0000:00:1f.0";
    let text = format!("error with host device: lstat {path}: no such file or directory");
    assert_eq!(Fake::new().pci("0000:00:1f.0"), Err(text), "no such device either");
    let text = "error with host device: \"../../etc\" is not a PCI address";
    assert_eq!(Fake::new().pci("../../etc"), Err(text.to_owned()));
}

#[test]
fn an_id_is_a_pci_address_or_an_auxiliary_device() {
    let fake = Fake::new();
    assert_eq!(fake.id("0000:00:04.0"), name("enp0s4"));
    assert_eq!(fake.id("mlx5_core.sf.6"), name("eth6"));
    let dir = |id: &str| format!("/sys/bus/auxiliary/devices/{id}/net");
    let empty = format!("failed to find network device in path {}", dir("mlx5_core.sf.7"));
    assert_eq!(fake.id("mlx5_core.sf.7"), failed(&empty));
    let path = dir("mlx5_core.sf.8");
    let none = format!("failed to read directory {path}: \"open {path}: no such file or directory\"");
    assert_eq!(fake.id("mlx5_core.sf.8"), failed(&none));
    for id in ["0000:00:1f.0", "..", "../drivers", ""] {
        assert_eq!(fake.id(id), Err(format!("runtime config DeviceID {id} not found or unsupported")));
    }
    let both =
        |id: &str| DeviceQuery { pci: Some("0000:00:05.0".into()), id: Some(id.into()), ..DeviceQuery::default() };
    assert_eq!(fake.resolve(&both("0000:00:04.0")), name("enp0s4"), "before the configuration's");
    assert_eq!(fake.resolve(&both("mlx5_core.sf.6")), name("eth6"), "instead of the configuration's");
}

#[test]
fn the_first_key_that_is_set_counts() {
    let fake = Fake::new();
    let all = DeviceQuery {
        name: Some("eth9".into()),
        hardware: Some(vec![2, 0, 0, 0, 0, 1]),
        kernel_path: Some("/sys/devices/pci0000:00/0000:00:19.0".into()),
        pci: Some("0000:00:04.0".into()),
        ..DeviceQuery::default()
    };
    assert_eq!(fake.resolve(&all), name("eth9"));
    let all = DeviceQuery { name: None, ..all };
    assert_eq!(fake.resolve(&all), Ok(Target::Hardware(vec![2, 0, 0, 0, 0, 1])));
    let all = DeviceQuery { hardware: None, ..all };
    assert_eq!(fake.resolve(&all), Ok(Target::AnyOf(vec!["eno1".into()])));
    let gone = DeviceQuery { kernel_path: Some("/sys/devices/nothing".into()), ..DeviceQuery::default() };
    assert_eq!(fake.resolve(&gone), failed("failed to find network devices at \"/sys/devices/nothing/net\""));
    assert_eq!(fake.resolve(&DeviceQuery { kernel_path: None, ..all }), name("enp0s4"));
}
