fn main() -> std::process::ExitCode {
    perilune::cli::main()
}
