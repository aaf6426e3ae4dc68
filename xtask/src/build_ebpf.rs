//! `cargo xtask build-ebpf`: compiles the kernel programs into the object
//! that is kept in the repository.
//!
//! Users and CI need no compiler for the kernel's virtual machine, because
//! the object is committed. What keeps it honest is its digest file: `--check`
//! fails when the sources are no longer those the object was made of, and
//! where the same compiler is at hand it builds again and compares every
//! byte.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use object::build::elf::SectionData;
use replicator_tests::apt;

const OBJECT: &str = "replicator.bpf.o";
const DIGEST: &str = "replicator.bpf.digest";
const LINKER_VERSION: &str = "0.13.0";
/// The LLVM that bpf-linker is built against; a compiler with another one
/// writes bitcode that it may not read.
const LLVM_MAJOR: &str = "22";
const LLVM_LIBRARY: &str = "libLLVM.so.22.1";
const LLVM_PACKAGE: &str = "libllvm22";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-src", LLVM_PACKAGE];

#[derive(clap::Args)]
pub struct Args {
    /// Install and write nothing: fail when the object is not what the
    /// sources make
    #[arg(long)]
    check: bool,
}

pub fn run(args: Args) -> Result<()> {
    let places = Places::new();
    if args.check {
        return check(&places);
    }
    let compiler = match Compiler::at_hand().next() {
        Some(compiler) => compiler,
        None => {
            install_debian_packages()?;
            Compiler::at_hand().next().context("the installed compiler is not usable")?
        }
    };
    install_linker(&places)?;
    let object = build(&places, &compiler)?;
    let recorded = Recorded {
        sources: digest_of_sources(&places.sources, &compiler.version)?,
        object: blake3::hash(&object).to_hex().to_string(),
        compiler: compiler.version,
    };
    fs::write(places.sources.join(OBJECT), &object)?;
    fs::write(places.sources.join(DIGEST), recorded.to_text())?;
    println!("replicator-ebpf/{OBJECT}: {} bytes by {}", object.len(), recorded.compiler);
    Ok(())
}

fn check(places: &Places) -> Result<()> {
    let text = fs::read_to_string(places.sources.join(DIGEST))
        .with_context(|| format!("replicator-ebpf/{DIGEST} is missing; run build-ebpf"))?;
    let recorded = Recorded::parse(&text)?;
    let sources = digest_of_sources(&places.sources, &recorded.compiler)?;
    ensure!(
        sources == recorded.sources,
        "the kernel programs changed after {OBJECT} was built; run `cargo xtask build-ebpf`"
    );
    let object = fs::read(places.sources.join(OBJECT))?;
    ensure!(
        blake3::hash(&object).to_hex().as_str() == recorded.object,
        "{OBJECT} is not the one that was recorded; run `cargo xtask build-ebpf`"
    );
    let compiler = Compiler::at_hand().find(|found| found.version == recorded.compiler);
    match compiler {
        Some(compiler) if places.linker_is_installed() => {
            ensure!(
                build(places, &compiler)? == object,
                "the sources build to another object; run `cargo xtask build-ebpf`"
            );
            println!("the object is what its sources build to, byte for byte");
        }
        _ => println!(
            "the object belongs to its sources; not built again, for want of {} and bpf-linker {LINKER_VERSION}",
            recorded.compiler
        ),
    }
    Ok(())
}

struct Places {
    sources: PathBuf,
    tools: PathBuf,
    target: PathBuf,
}

impl Places {
    fn new() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let target = root.join("target");
        Self {
            sources: root.join("replicator-ebpf"),
            tools: target.join("ebpf-tools"),
            target: target.join("ebpf"),
        }
    }

    fn linker_is_installed(&self) -> bool {
        let linker = Command::new(self.tools.join("bin/bpf-linker")).arg("--version").output();
        linker.is_ok_and(|told| {
            String::from_utf8_lossy(&told.stdout).trim().ends_with(LINKER_VERSION)
        })
    }
}

/// What the digest file says.
struct Recorded {
    sources: String,
    object: String,
    compiler: String,
}

impl Recorded {
    fn to_text(&self) -> String {
        format!("sources {}\nobject {}\ncompiler {}\n", self.sources, self.object, self.compiler)
    }

    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
                .with_context(|| format!("replicator-ebpf/{DIGEST} has no line '{name}'"))
        };
        Ok(Self {
            sources: field("sources ")?,
            object: field("object ")?,
            compiler: field("compiler ")?,
        })
    }
}

/// A compiler that has the sources of `core` beside it, and the right LLVM.
struct Compiler {
    rustc: PathBuf,
    cargo: PathBuf,
    /// The first line of `rustc -vV`.
    version: String,
}

impl Compiler {
    /// All that are usable, Debian's first.
    fn at_hand() -> impl Iterator<Item = Self> {
        let debian = || Self::of("/usr/bin/rustc".into(), "/usr/bin/cargo".into());
        let places: [fn() -> Option<Self>; 2] = [debian, Self::nightly];
        places.into_iter().filter_map(|find| find())
    }

    fn nightly() -> Option<Self> {
        let which = |tool: &str| {
            let told =
                output(Command::new("rustup").args(["which", "--toolchain", "nightly", tool]));
            told.map(|path| PathBuf::from(path.trim()))
        };
        Self::of(which("rustc")?, which("cargo")?)
    }

    fn of(rustc: PathBuf, cargo: PathBuf) -> Option<Self> {
        let about = output(Command::new(&rustc).arg("-vV"))?;
        let llvm = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        let sysroot = output(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock");
        let usable = llvm.split('.').next() == Some(LLVM_MAJOR) && library.exists();
        let version = about.lines().next()?.to_owned();
        usable.then_some(Self { rustc, cargo, version })
    }
}

fn install_debian_packages() -> Result<()> {
    println!("installing {}", DEBIAN_PACKAGES.join(" "));
    apt::install(&DEBIAN_PACKAGES).with_context(|| {
        format!(
            "building the kernel programs needs a rustup nightly with the component rust-src and \
             LLVM {LLVM_MAJOR}, or Debian's packages {} (as root)",
            DEBIAN_PACKAGES.join(" ")
        )
    })
}

fn install_linker(places: &Places) -> Result<()> {
    if places.linker_is_installed() {
        return Ok(());
    }
    println!("installing bpf-linker {LINKER_VERSION}, which takes a minute or two");
    let llvm = places.tools.join("llvm");
    fs::create_dir_all(llvm.join("lib"))?;
    let library = Path::new("/usr/lib").join(format!("{}-linux-gnu", env::consts::ARCH));
    let library = library.join(LLVM_LIBRARY);
    if !library.exists() {
        // A nightly brings its own, which nothing else can be linked to.
        println!("installing {LLVM_PACKAGE}");
        apt::install(&[LLVM_PACKAGE]).with_context(|| {
            format!("bpf-linker needs Debian's package {LLVM_PACKAGE} (as root)")
        })?;
    }
    point(&llvm.join("lib/libLLVM.so"), &library)?;
    let status = Command::new("cargo")
        .args(["install", "bpf-linker", "--locked", "--no-default-features"])
        .args(["--version", LINKER_VERSION])
        .arg(format!("--features=llvm-{LLVM_MAJOR}"))
        .arg("--root")
        .arg(&places.tools)
        .env("LLVM_PREFIX", fs::canonicalize(&llvm)?)
        .status()?;
    ensure!(status.success(), "bpf-linker could not be installed");
    Ok(())
}

/// Makes a link, whatever an earlier one named, which may be gone.
fn point(link: &Path, library: &Path) -> Result<()> {
    ensure!(library.exists(), "there is no {}", library.display());
    match fs::remove_file(link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot replace {}", link.display()));
        }
        _ => {}
    }
    symlink(library, link).with_context(|| format!("cannot make {}", link.display()))
}

fn build(places: &Places, compiler: &Compiler) -> Result<Vec<u8>> {
    let mut path = OsString::from(fs::canonicalize(places.tools.join("bin"))?);
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());
    fs::create_dir_all(&places.target)?;
    let target = fs::canonicalize(&places.target)?;
    let status = Command::new(&compiler.cargo)
        .args(["build", "--release", "--locked", "--features", "programs"])
        .current_dir(&places.sources)
        .env("PATH", path)
        .env("RUSTC", &compiler.rustc)
        // The compiler is a stable one; building `core` is not.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_TARGET_DIR", &target)
        // What the outer cargo was told is not meant for this target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .env_remove("RUSTUP_TOOLCHAIN")
        .status()?;
    ensure!(status.success(), "the kernel programs do not build");
    strip(&fs::read(target.join("bpfel-unknown-none/release/replicator-ebpf"))?)
}

/// Leaves out what only a debugger reads, and the relocations of the type
/// descriptions, which no loader applies.
fn strip(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in builder.sections.iter_mut() {
        let name = section.name.to_vec();
        let unread = [&b".debug_"[..], b".rel.debug_", b".rel.BTF", b".llvm", b".comment"];
        if unread.iter().any(|prefix| name.starts_with(prefix)) {
            section.delete = true;
        }
    }
    // LLVM keeps the names of sections with those of symbols, the writer apart.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = SectionData::SectionString;
    builder.delete_orphans();
    builder.delete_unused_versions();
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// Names and contents of all that decides what the object is, and the
/// compiler's version.
fn digest_of_sources(sources: &Path, compiler: &str) -> Result<String> {
    let mut files = ["Cargo.toml", "Cargo.lock", ".cargo/config.toml"].map(PathBuf::from).to_vec();
    for entry in fs::read_dir(sources.join("src"))? {
        files.push(Path::new("src").join(entry?.file_name()));
    }
    files.sort();
    let mut hasher = blake3::Hasher::new();
    for file in files {
        let content = fs::read(sources.join(&file))?;
        let name = file.to_string_lossy();
        for part in [name.as_bytes(), &content] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
    }
    hasher.update(compiler.as_bytes());
    Ok(hasher.finalize().to_hex().to_string())
}

/// What the command prints, if it succeeds.
fn output(command: &mut Command) -> Option<String> {
    let told = command.output().ok().filter(|told| told.status.success())?;
    String::from_utf8(told.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_library_that_is_gone_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        symlink(place("gone"), place("link")).unwrap();
        let missing = point(&place("link"), &place("library")).unwrap_err();
        assert!(missing.to_string().starts_with("there is no "), "{missing}");
        fs::write(place("library"), "content").unwrap();
        for _ in 0..2 {
            point(&place("link"), &place("library")).unwrap();
            assert_eq!(fs::read(place("link")).unwrap(), b"content");
        }
    }
}
