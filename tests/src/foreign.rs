//! A writer that uses the system calls of another table than this machine's
//! programs: a 32-bit process.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::machine;

/// Names one that was built before, for machines without a compiler.
pub const WRITER_VARIABLE: &str = "REPLICATOR_WRITER_32";

/// Opens `f`, writes its own code over a part of it, and ends: with the
/// system calls of the 32-bit table.
const WRITER: &str = r#"
.globl _start
_start:
    movl $5, %eax; movl $name, %ebx; movl $2, %ecx; int $0x80      # open
    testl %eax, %eax; js failed
    movl %eax, %ebx
    movl $19, %eax; movl $123456, %ecx; xorl %edx, %edx; int $0x80 # lseek
    movl $4, %eax; movl $_start, %ecx; movl $64, %edx; int $0x80   # write
    cmpl $64, %eax; jne failed
    movl $1, %eax; xorl %ebx, %ebx; int $0x80                      # exit
failed:
    movl $1, %eax; movl $1, %ebx; int $0x80
name: .asciz "f"
"#;

/// The writer, which works on `f` in its working directory; an error says what
/// this machine lacks to build it in the folder.
pub fn writer(folder: &Path) -> Result<PathBuf> {
    if let Some(built) = std::env::var_os(WRITER_VARIABLE) {
        return Ok(built.into());
    }
    ensure!(cfg!(any(target_arch = "x86_64", target_arch = "x86")), "another processor");
    let gcc = machine::program("gcc").context("no gcc")?;
    let (program, source) = (folder.join("writer-32"), folder.join("writer-32.s"));
    std::fs::write(&source, WRITER)?;
    let mut command = Command::new(gcc);
    command.args(["-m32", "-nostdlib", "-static", "-o"].map(OsStr::new)).arg(&program).arg(&source);
    machine::run(&mut command)?;
    Ok(program)
}
