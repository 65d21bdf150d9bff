//! What is in memory stays there: passwords, keys and mail must not end up in a core dump, which others may read, and
//! which is kept for weeks.
//!
//! On Linux the process is not dumpable any more, so that no handler of core dumps gets one either, and processes of the
//! same user can neither attach to it nor read its memory. Elsewhere its core file may have no length. That it could not
//! be forbidden is no reason not to relay mail: it is said in the log.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// From now on. To be called before a secret is read.
///
/// # Errors
/// The system refuses.
pub fn forbid() -> std::io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    let maximum = getrlimit(Resource::Core).maximum;
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), maximum })?)
}
