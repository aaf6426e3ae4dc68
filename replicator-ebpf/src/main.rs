//! The kernel programs: two sets of thin shims over one shared core.
//!
//! A shim takes the inode and the range out of the arguments of a tracepoint
//! ([`tracepoints`]) or of a function that returned ([`exits`]) and calls the
//! core ([`event`]). The core decides whether the inode is in the folder ([`place`]) and marks
//! its dirty blocks ([`mark`]). Programs allocate nothing, wait for nothing
//! and lose nothing silently.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![allow(internal_features, reason = "atomics on this target exist as intrinsics only")]

mod event;
mod exits;
mod kernel;
mod mark;
mod place;
mod table;
mod tracepoints;

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
