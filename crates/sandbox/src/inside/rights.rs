//! Capabilities: those that the keeper needs, handed on and then given up for good.

use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
};

use super::{Fault, fault};
use crate::error::Wall;

/// Mounting, and emptying the set of capabilities that could be had.
fn needed() -> CapabilitySet {
    CapabilitySet::SYS_ADMIN | CapabilitySet::SETPCAP
}

/// Lets the next stage keep the capabilities that this one has in its user namespace.
pub fn hand_on() -> Result<(), Fault> {
    let sets = CapabilitySets { effective: needed(), permitted: needed(), inheritable: needed() };
    set_capabilities(None, sets).map_err(fault(Wall::Capabilities, "capset"))?;
    for capability in needed() {
        configure_capability_in_ambient_set(capability, true)
            .map_err(fault(Wall::Capabilities, "ambient set"))?;
    }
    Ok(())
}

/// Gives them up, in every set, for this process and all that come of it; and closes this
/// process's memory to the others of its user.
pub fn give_up() -> Result<(), Fault> {
    clear_ambient_capability_set().map_err(fault(Wall::Capabilities, "ambient set"))?;
    // Those that this kernel does not know cannot be removed: beyond its last, EINVAL.
    for capability in CapabilitySet::all() {
        match remove_capability_from_bounding_set(capability) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(fault(Wall::Capabilities, "bounding set")(error)),
        }
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, sets).map_err(fault(Wall::Capabilities, "capset"))?;
    set_no_new_privs().map_err(fault(Wall::Capabilities, "no_new_privs"))?;
    set_dumpable(false).map_err(fault(Wall::Capabilities, "prctl"))
}
