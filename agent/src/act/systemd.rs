//! Units and scopes that systemd owns: it is asked over D-Bus, since what is written behind its
//! back it overwrites at its next look.
//!
//! A property is set with `runtime=true`: systemd notes it in a drop-in below `/run`, which is
//! removed again when the old value is back. A property that already has such a drop-in was set by
//! a person (`systemctl set-property --runtime`) and is left alone.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use zbus::connection::Builder;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Variant};

use super::control::Control;
use super::subject::Subject;
use super::value::{CpuLimit, CpuShare, Cpuset, Lever, PerDevice, Value};
use crate::roots::Roots;
use devices::{Devices, LATENCY, MAX, Pairs, Properties};

mod devices;

const MANAGER: &str = "org.freedesktop.systemd1";
const MANAGER_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

/// Where systemd notes what is set at run time.
pub const RUN: &str = "/run/systemd";

/// How long systemd may take for one answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// systemd's word for "not set" and for "no limit".
const UNSET: u64 = u64::MAX;

/// The period that systemd takes where none is set, microseconds.
const PERIOD_US: u64 = 100_000;

/// Folders in which systemd notes properties that were set at run time.
const NOTED: [&str; 2] = ["system.control", "transient"];

/// systemd, as one asks it for a unit's properties.
#[derive(Debug)]
pub struct Systemd {
    runtime: tokio::runtime::Runtime,
    bus: Connection,
    /// `/run/systemd`.
    noted: PathBuf,
    devices: Devices,
    /// Drop-ins that are there because of us.
    drop_ins: Mutex<BTreeSet<PathBuf>>,
    /// Every drop-in of a value that is put back is ours.
    restores: bool,
}

impl Systemd {
    /// Connects to the system bus; `run` is systemd's own folder ([`RUN`]), and `roots` says where
    /// devices have their names. `restores`: to put back what another process set.
    ///
    /// # Errors
    /// When there is no bus, or systemd is not on it.
    pub fn connect(run: &Path, roots: &Roots, restores: bool) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let bus = runtime
            .block_on(async { Builder::system().method_timeout(PATIENCE).build().await })
            .map_err(|error| io::Error::other(format!("the system bus: {error}")))?;
        let devices = Devices::new(roots.sys.clone());
        let noted = run.to_owned();
        Ok(Self { runtime, bus, noted, devices, drop_ins: Mutex::default(), restores })
    }

    fn call<B>(
        &self,
        path: &str,
        interface: &str,
        method: &str,
        body: &B,
    ) -> io::Result<zbus::Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        let call = self.bus.call_method(Some(MANAGER), path, Some(interface), method, body);
        self.runtime.block_on(call).map_err(|error| io_error(&error))
    }

    fn property(&self, unit: &str, interface: &str, name: &str) -> io::Result<OwnedVariant> {
        let answer = self.call(MANAGER_PATH, MANAGER_INTERFACE, "GetUnit", &(unit,))?;
        let path: OwnedObjectPath = answer.body().deserialize().map_err(|e| io_error(&e))?;
        let answer = self.call(path.as_str(), PROPERTIES, "Get", &(interface, name))?;
        answer.body().deserialize().map_err(|error| io_error(&error))
    }

    fn number(&self, unit: &str, name: &str) -> io::Result<u64> {
        let value = self.property(unit, &interface(unit), name)?;
        u64::try_from(value).map_err(|error| io::Error::other(format!("{name}: {error}")))
    }

    fn limit(&self, unit: &str, name: &str) -> io::Result<Option<u64>> {
        Ok(Some(self.number(unit, name)?).filter(|bytes| *bytes != UNSET))
    }

    fn by_device(&self, unit: &str, properties: &Properties) -> io::Result<PerDevice> {
        let pairs = |(_, name): &(&str, &str)| {
            let value = self.property(unit, &interface(unit), name)?;
            Pairs::try_from(value).map_err(|error| io::Error::other(format!("{name}: {error}")))
        };
        let shown = properties.iter().map(pairs).collect::<io::Result<Vec<_>>>()?;
        Ok(self.devices.limits_in(properties, &shown))
    }

    /// What changes for these limits by device; properties that are empty and stay so are left out.
    fn device_settings(
        &self,
        unit: &str,
        properties: &'static Properties,
        wanted: &PerDevice,
    ) -> io::Result<Vec<(&'static str, Variant<'static>)>> {
        let now = self.by_device(unit, properties)?;
        let before = self.devices.settings_for(properties, &now, &PerDevice::default());
        let after = self.devices.settings_for(properties, wanted, &now);
        let changes = properties.iter().zip(before.into_iter().zip(after));
        let changed = changes.filter(|(_, (before, after))| before != after);
        Ok(changed.map(|((_, name), (_, after))| (*name, Variant::from(after))).collect())
    }

    fn read_unit(&self, lever: Lever, unit: &str) -> io::Result<Value> {
        Ok(match lever {
            Lever::CpuWeight => Value::CpuWeight(match self.number(unit, "CPUWeight")? {
                UNSET => CpuShare::Unset,
                0 => CpuShare::Idle,
                weight => CpuShare::Weight(weight),
            }),
            Lever::CpuMax => {
                let period = self.limit(unit, "CPUQuotaPeriodUSec")?.unwrap_or(PERIOD_US);
                let per_second = self.limit(unit, "CPUQuotaPerSecUSec")?;
                Value::CpuMax(CpuLimit {
                    quota_us: per_second.map(|us| us.saturating_mul(period) / 1_000_000),
                    period_us: period,
                    burst_us: 0,
                })
            }
            Lever::MemoryMin => Value::MemoryMin(self.limit(unit, "MemoryMin")?),
            Lever::MemoryLow => Value::MemoryLow(self.limit(unit, "MemoryLow")?),
            Lever::MemoryHigh => Value::MemoryHigh(self.limit(unit, "MemoryHigh")?),
            Lever::MemoryMax => Value::MemoryMax(self.limit(unit, "MemoryMax")?),
            Lever::IoWeight => Value::IoWeight(self.limit(unit, "IOWeight")?),
            Lever::IoMax => Value::IoMax(self.by_device(unit, MAX)?),
            Lever::IoLatency => Value::IoLatency(self.by_device(unit, LATENCY)?),
            Lever::Cpuset => {
                let bytes = self.property(unit, &interface(unit), "AllowedCPUs")?;
                let bytes = Vec::<u8>::try_from(bytes).map_err(io::Error::other)?;
                Value::Cpuset(Cpuset { cpus: cpus_of(&bytes), partition: "member".into() })
            }
            Lever::Freeze => {
                let state = self.property(unit, "org.freedesktop.systemd1.Unit", "FreezerState")?;
                let state = String::try_from(state).map_err(io::Error::other)?;
                Value::Freeze(state.starts_with("fr"))
            }
            other => return Err(not_by_systemd(other)),
        })
    }

    fn write_unit(&self, unit: &str, value: &Value) -> io::Result<()> {
        let or_unset = |value: &Option<u64>| value.unwrap_or(UNSET);
        let settings: Vec<(&str, Variant<'_>)> = match value {
            Value::CpuWeight(share) => {
                let number = match share {
                    CpuShare::Weight(weight) => *weight,
                    CpuShare::Idle => 0,
                    CpuShare::Unset => UNSET,
                };
                vec![("CPUWeight", number.into())]
            }
            Value::CpuMax(CpuLimit { burst_us: 1.., .. }) => {
                return Err(unsupported(
                    "systemd has no burst: set `adopt = true` or leave it away",
                ));
            }
            Value::CpuMax(CpuLimit { quota_us, period_us, .. }) => {
                let per_second = |quota: u64| quota.saturating_mul(1_000_000) / (*period_us).max(1);
                let period = if *period_us == PERIOD_US { UNSET } else { *period_us };
                vec![
                    ("CPUQuotaPeriodUSec", period.into()),
                    ("CPUQuotaPerSecUSec", quota_us.map_or(UNSET, per_second).into()),
                ]
            }
            Value::MemoryMin(bytes) => vec![("MemoryMin", or_unset(bytes).into())],
            Value::MemoryLow(bytes) => vec![("MemoryLow", or_unset(bytes).into())],
            Value::MemoryHigh(bytes) => vec![("MemoryHigh", or_unset(bytes).into())],
            Value::MemoryMax(bytes) => vec![("MemoryMax", or_unset(bytes).into())],
            Value::IoWeight(weight) => vec![("IOWeight", or_unset(weight).into())],
            Value::IoMax(limits) => self.device_settings(unit, MAX, limits)?,
            Value::IoLatency(targets) => self.device_settings(unit, LATENCY, targets)?,
            Value::Cpuset(set) if set.partition == "member" => {
                vec![("AllowedCPUs", Variant::from(mask_of(&set.cpus)))]
            }
            Value::Freeze(frozen) => {
                let method = if *frozen { "FreezeUnit" } else { "ThawUnit" };
                return self.call(MANAGER_PATH, MANAGER_INTERFACE, method, &(unit,)).map(drop);
            }
            other => return Err(not_by_systemd(other.lever())),
        };
        let drop_ins: Vec<PathBuf> =
            settings.iter().flat_map(|(name, _)| self.drop_ins(unit, name)).collect();
        let mut ours = self.drop_ins.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = drop_ins.iter().find(|path| path.exists() && !ours.contains(*path));
        if let Some(theirs) = theirs.filter(|_| !self.restores) {
            return Err(unsupported(&format!(
                "someone set it with `systemctl set-property --runtime` ({}): left alone",
                theirs.display()
            )));
        }
        self.call(MANAGER_PATH, MANAGER_INTERFACE, "SetUnitProperties", &(unit, true, settings))?;
        ours.extend(drop_ins);
        Ok(())
    }

    /// Where systemd may note a property that is set at run time.
    fn drop_ins(&self, unit: &str, property: &str) -> Vec<PathBuf> {
        // systemd writes the quota under its name in unit files, and so for the period.
        let name = match property {
            "CPUQuotaPerSecUSec" => "CPUQuota",
            "CPUQuotaPeriodUSec" => "CPUQuotaPeriodSec",
            other => other,
        };
        let file = format!("{unit}.d/50-{name}.conf");
        NOTED.iter().map(|folder| self.noted.join(folder).join(&file)).collect()
    }

    /// Removes the drop-ins of units whose values went back, and has systemd read its files anew if
    /// there were any: nothing is left.
    ///
    /// # Errors
    /// When a file cannot be removed, or systemd does not answer.
    pub fn clean_up(&self) -> io::Result<()> {
        let ours =
            std::mem::take(&mut *self.drop_ins.lock().unwrap_or_else(PoisonError::into_inner));
        let mut any = false;
        for path in ours {
            match std::fs::remove_file(&path) {
                Ok(()) => any = true,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    return Err(io::Error::new(
                        error.kind(),
                        format!("{}: {error}", path.display()),
                    ));
                }
            }
            // Others may have drop-ins there.
            let _ = path.parent().map(std::fs::remove_dir);
        }
        if any {
            self.call(MANAGER_PATH, MANAGER_INTERFACE, "Reload", &())?;
        }
        Ok(())
    }
}

impl Control for Systemd {
    fn read(&self, lever: Lever, subject: &Subject) -> io::Result<Value> {
        match subject {
            Subject::Unit(name) => self.read_unit(lever, name),
            other => Err(unsupported(&format!("{other} is no unit"))),
        }
    }

    fn write(&self, subject: &Subject, value: &Value) -> io::Result<()> {
        match subject {
            Subject::Unit(name) => self.write_unit(name, value),
            other => Err(unsupported(&format!("{other} is no unit"))),
        }
    }

    fn timer_slack(&self, _tid: u32) -> io::Result<u64> {
        Err(unsupported("a unit has no timer slack"))
    }

    fn start_time(&self, _tid: u32) -> io::Result<u64> {
        Err(unsupported("a unit has no start time"))
    }

    fn is_same(&self, subject: &Subject) -> bool {
        // A property belongs to the name: it also holds for the unit's next run.
        matches!(subject, Subject::Unit(_))
    }

    fn no_way_back(&self, _subject: &Subject, _old: &Value, _new: &Value) -> Option<String> {
        // Who may set a property may set it again.
        None
    }
}

/// `foo.scope` → `org.freedesktop.systemd1.Scope`.
fn interface(unit: &str) -> String {
    let kind = unit.rsplit_once('.').map_or("service", |(_, kind)| kind);
    let (first, rest) = kind.split_at_checked(1).unwrap_or(("s", "ervice"));
    format!("org.freedesktop.systemd1.{}{rest}", first.to_ascii_uppercase())
}

/// CPUs from the bits of bytes, the first CPU in the lowest bit of the first.
fn cpus_of(bytes: &[u8]) -> Vec<u32> {
    let bits = bytes.iter().zip((0_u32..).step_by(8));
    bits.flat_map(|(byte, first)| {
        (0..8).filter(move |bit| byte & 1 << bit != 0).map(move |bit| first + bit)
    })
    .collect()
}

fn mask_of(cpus: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; cpus.last().map_or(0, |last| *last as usize / 8 + 1)];
    for cpu in cpus {
        if let Some(byte) = bytes.get_mut(*cpu as usize / 8) {
            *byte |= 1 << (cpu % 8);
        }
    }
    bytes
}

fn io_error(error: &zbus::Error) -> io::Error {
    let text = error.to_string();
    let is_gone = text.contains("NoSuchUnit") || text.contains("UnknownObject");
    let kind = if is_gone { io::ErrorKind::NotFound } else { io::ErrorKind::Other };
    io::Error::new(kind, format!("systemd: {text}"))
}

fn not_by_systemd(lever: Lever) -> io::Error {
    unsupported(&format!(
        "downbeat does not ask systemd for {}: set `adopt = true` in the class",
        lever.name()
    ))
}

fn unsupported(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_bits_of_bytes() {
        assert_eq!(mask_of(&[0, 2, 9]), [0b101, 0b10]);
        assert_eq!(cpus_of(&[0b101, 0b10]), [0, 2, 9]);
        assert_eq!((mask_of(&[]), cpus_of(&[])), (vec![], vec![]));
    }

    #[test]
    fn a_units_kind_names_its_interface() {
        assert_eq!(interface("whisper.service"), "org.freedesktop.systemd1.Service");
        assert_eq!(interface("docker-1.2.scope"), "org.freedesktop.systemd1.Scope");
    }
}
