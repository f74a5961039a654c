use proptest::prelude::*;

use super::*;

const BASE: BaseUrl = BaseUrl::new(Ipv4Addr::new(10, 88, 0, 1), 50042);
const SCHEMATIC: &str = "376567988ad370138ad8b2698212367b8edcb69b5fd68c80be1f2ec7d603b4ba";

/// Compares with the file beside the tests; `BLESS=1` writes it.
fn golden(name: &str, text: &str) {
    let path = format!("{}/src/ipxe/golden/{name}", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text, expected, "{name}");
}

#[test]
fn the_first_script_reads_as_its_golden_file() {
    golden("init.ipxe", &init_script(BASE).text());
}

#[test]
fn agent_scripts_read_as_their_golden_files() {
    for (name, arch, test_mode) in [
        ("agent-amd64.ipxe", Arch::Amd64, false),
        ("agent-arm64.ipxe", Arch::Arm64, false),
        ("agent-test-mode.ipxe", Arch::Amd64, true),
    ] {
        let args = KernelArgs::agent(BASE, arch, test_mode);
        golden(name, &agent_script(BASE, arch, &args).unwrap().text());
    }
    for (name, skip_verify) in [("agent-tls.ipxe", false), ("agent-tls-skip-verify.ipxe", true)] {
        let args = KernelArgs::agent_with_tls(BASE, Arch::Amd64, true, AgentTls { port: 50043, skip_verify });
        golden(name, &agent_script(BASE, Arch::Amd64, &args).unwrap().text());
    }
}

#[test]
fn talos_scripts_read_as_their_golden_files() {
    for (name, arch) in [("talos-amd64.ipxe", Arch::Amd64), ("talos-arm64.ipxe", Arch::Arm64)] {
        let args = KernelArgs::talos_without_factory(BASE, arch).args("  net.ifnames=0  panic=10 ").unwrap();
        golden(name, &talos_script(BASE, SCHEMATIC, "v1.13.9", arch, &args).unwrap().text());
    }
}

#[test]
fn the_disk_is_reached_by_script_or_by_404() {
    let text = |method| disk_script(method).map(|script| script.text());
    assert_eq!(text(DiskMethod::IpxeExit).as_deref(), Some("#!ipxe\nexit 1\n"));
    assert_eq!(
        text(DiskMethod::IpxeSanboot).as_deref(),
        Some("#!ipxe\nsanboot --no-describe --drive 0x80\n")
    );
    assert_eq!(text(DiskMethod::Http404), None);
}

#[test]
fn methods_have_the_names_of_the_flag() {
    for (method, name) in [
        (DiskMethod::IpxeExit, "ipxe-exit"),
        (DiskMethod::Http404, "http-404"),
        (DiskMethod::IpxeSanboot, "ipxe-sanboot"),
    ] {
        assert_eq!(name.parse(), Ok(method));
        assert_eq!(serde_json::to_value(method).unwrap(), name);
    }
    assert_eq!("exit".parse::<DiskMethod>(), Err(ParseDiskMethodError));
}

#[test]
fn only_commands_of_the_ipxe_of_2019_are_used() {
    // As built by Debian from 36a4c85; each was run there.
    let known = [
        "boot", "chain", "echo", "exit", "goto", "ifclose", "ifconf", "imgfree", "inc", "initrd", "iseq",
        "isset", "kernel", "reboot", "sanboot", "set", "sleep",
    ];
    let args = KernelArgs::talos(BASE, Arch::Amd64);
    let mut scripts =
        vec![init_script(BASE), talos_script(BASE, SCHEMATIC, "v1.13.9", Arch::Amd64, &args).unwrap()];
    scripts.extend([DiskMethod::IpxeExit, DiskMethod::IpxeSanboot].into_iter().filter_map(disk_script));
    for text in scripts.iter().map(Script::text) {
        for command in
            text.lines().skip(1).flat_map(|line| line.split(" || ")).filter(|part| !part.starts_with(':'))
        {
            let name = command.split(' ').next().unwrap();
            assert!(known.contains(&name), "{command}");
        }
        let labels: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(':')).collect();
        for target in text.split("goto ").skip(1) {
            assert!(labels.contains(&target.lines().next().unwrap()), "{target}");
        }
    }
}

#[test]
fn the_kernel_is_told_its_initramfs_by_name() {
    let script = agent_script(BASE, Arch::Amd64, &KernelArgs::new()).unwrap().text();
    assert!(script.contains("/kernel-amd64 initrd=initramfs-metal-amd64.xz ||"), "{script}");
}

#[test]
fn words_that_are_syntax_are_refused() {
    for text in
        ["", " ", "a b", "a\nb", "a\tb", "a\r", "||", "&&", ";", "#x", ":label", "${net0/ip}", "ä", "\0"]
    {
        assert_eq!(Word::new(text), Err(ScriptError::NotAWord(text.to_owned())), "{text:?}");
    }
    for text in ["a||b", "a#b", "a;b", "console=ttyS0,115200n8", "$x", "{}", "a:b"] {
        assert_eq!(Word::new(text).unwrap().as_str(), text);
    }
}

#[test]
fn paths_are_made_of_plain_names() {
    let args = KernelArgs::talos(BASE, Arch::Amd64);
    for bad in ["", ".", "..", "a/b", "a b", "a?b", "a#b", "a%2fb", "a\n"] {
        let error = ScriptError::NotAName(bad.to_owned());
        assert_eq!(talos_script(BASE, bad, "v1", Arch::Amd64, &args), Err(error.clone()));
        assert_eq!(talos_script(BASE, "s", bad, Arch::Amd64, &args), Err(error));
    }
    assert!(talos_script(BASE, "s", "v1.14.0-alpha.1+x", Arch::Amd64, &args).is_ok());
}

#[test]
fn a_command_line_that_a_kernel_would_cut_off_is_refused() {
    let args = KernelArgs::agent(BASE, Arch::Amd64, false);
    let room = COMMAND_LINE_MAX - args.len() - "initrd=initramfs-metal-amd64.xz ".len() - " ".len();
    let fits = args.clone().arg(&"x".repeat(room)).unwrap();
    assert!(agent_script(BASE, Arch::Amd64, &fits).is_ok());
    let over = args.arg(&"x".repeat(room + 1)).unwrap();
    assert_eq!(agent_script(BASE, Arch::Amd64, &over), Err(ScriptError::TooLong(COMMAND_LINE_MAX + 1)));
}

proptest! {
    #[test]
    fn nothing_from_outside_adds_a_line_or_a_command(
        args in prop::collection::vec("\\PC*|[ -~]*|(.|\n|\r){0,20}|\\|\\||;|#.*", 0..6),
        schematic in "[ -~]*|(.|\n){0,9}|[a-z0-9]{1,64}",
        version in "[ -~]*|(.|\n){0,9}|v[0-9.]{1,9}",
    ) {
        let kernel_args = args.iter().try_fold(KernelArgs::talos(BASE, Arch::Amd64), |all, arg| all.arg(arg));
        let Ok(kernel_args) = kernel_args else { return Ok(()) };
        let Ok(script) = talos_script(BASE, &schematic, &version, Arch::Amd64, &kernel_args) else { return Ok(()) };
        let text = script.text();
        let lines: Vec<&str> = text.split('\n').collect();
        let commands: Vec<&str> = lines.iter().map(|line| line.split(' ').next().unwrap()).collect();
        prop_assert_eq!(
            commands,
            ["#!ipxe", "imgfree", "kernel", "initrd", "boot", ":failed", "echo", "sleep", "chain", ""]
        );
        prop_assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)));
        let (kernel, otherwise) = lines[2].split_once(" || ").unwrap();
        prop_assert_eq!(otherwise, "goto failed");
        for word in kernel.split(' ') {
            prop_assert!(!matches!(word, "" | "||" | "&&" | ";") && !word.starts_with('#'));
        }
        prop_assert_eq!(text.matches("${").count(), 1);
    }

    #[test]
    fn plain_arguments_arrive_as_they_are(args in prop::collection::vec("[a-z][a-z0-9=.,:/_-]{0,20}", 0..8)) {
        let line = args.join(" ");
        let kernel_args = KernelArgs::new().args(&line).unwrap();
        prop_assert_eq!(kernel_args.len(), line.len());
        prop_assert_eq!(kernel_args.to_string(), line);
    }
}
