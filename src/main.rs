//! The binary `perilune`.

/// glibc's malloc took a seventh of a call that Lua answers; LuaJIT's memory comes from here, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    perilune::cli::main()
}
