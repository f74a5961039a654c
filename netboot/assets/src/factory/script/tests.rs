use super::*;

const URL: &str = "https://pxe.factory.talos.dev/image/376567988ad3/v1.13.7";

/// In the form of Image Factory v1.4.0.
fn standard() -> String {
    format!(
        "#!ipxe\n\nimgfree\nkernel {URL}/kernel-amd64 talos.platform=metal \
         talos.config=http://10.0.0.1:50042/config?u=${{uuid}} console=tty0\n\
         initrd {URL}/initramfs-amd64.xz\nboot\n"
    )
}

fn parse(text: &str) -> Result<BootScript, BootScriptError> {
    BootScript::parse(text.as_bytes())
}

#[test]
fn a_factorys_script_is_read() {
    let script = parse(&standard()).unwrap();
    assert_eq!(script.kernel_url, format!("{URL}/kernel-amd64"));
    assert_eq!(script.initrd_url.unwrap(), format!("{URL}/initramfs-amd64.xz"));
    assert_eq!(
        script.args,
        ["talos.platform=metal", "talos.config=http://10.0.0.1:50042/config?u=${uuid}", "console=tty0"]
    );
}

#[test]
fn a_unified_image_has_no_initrd() {
    let script =
        parse("#!ipxe\n\nimgfree\nkernel https://h/metal-amd64-secureboot-uki.efi a=b\nboot\n").unwrap();
    assert_eq!(script.initrd_url, None);
    assert_eq!(script.args, ["a=b"]);
}

#[test]
fn line_ends_blanks_and_comments_do_not_matter() {
    let text = standard().replace('\n', "\r\n").replace("imgfree", " # a comment\r\n\timgfree ");
    assert_eq!(parse(&text), parse(&standard()));
}

#[test]
fn whatever_else_it_is_is_refused() {
    use BootScriptError::*;
    let kernel = "#!ipxe\nkernel https://h/k\n";
    for (text, error) in [
        ("", NoScript),
        ("<html><body>Sign in</body></html>", NoScript),
        ("#!ipxe-2\nboot\n", NoScript),
        ("#!ipxe\nkernel https://h/ü\nboot\n", NoScript),
        ("#!ipxe\n", NoKernel),
        ("#!ipxe\nboot\n", NoKernel),
        (kernel, NoKernel),
        (&format!("{kernel}boot\nboot\n"), Command(4)),
        (&format!("{kernel}boot\nkernel https://h/evil\n"), Command(4)),
        (&format!("{kernel}chain https://h/x\nboot\n"), Command(3)),
        (&format!("{kernel}boot || shell\n"), Command(3)),
        (&format!("{kernel}kernel https://h/l\nboot\n"), Twice(3)),
        (&format!("{kernel}initrd https://h/i\ninitrd https://h/j\nboot\n"), Twice(4)),
        (&format!("{kernel}initrd https://h/i more\nboot\n"), Url(3)),
        (&format!("{kernel}initrd\nboot\n"), Url(3)),
        ("#!ipxe\nkernel --name x https://h/k\nboot\n", Url(2)),
        ("#!ipxe\nkernel /local\nboot\n", Url(2)),
        ("#!ipxe\nkernel tftp://h/k\nboot\n", Url(2)),
        ("#!ipxe\nkernel https:///k\nboot\n", Url(2)),
        ("#!ipxe\nkernel https://h/${uuid}\nboot\n", Url(2)),
    ] {
        assert_eq!(parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn there_is_an_end_to_it() {
    assert_eq!(parse(&format!("#!ipxe\n{}", "\n".repeat(100))), Err(BootScriptError::TooLong));
    let long = format!("#!ipxe\nkernel https://h/k {}\nboot\n", "x".repeat(SCRIPT_MAX));
    assert_eq!(parse(&long), Err(BootScriptError::TooLong));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
        let _ = BootScript::parse(&bytes);
        let _ = BootScript::parse(&[b"#!ipxe\n", bytes.as_slice()].concat());
    }

    #[test]
    fn words_in_any_order_make_no_script_that_boots_less_than_it_says(
        words in proptest::collection::vec("kernel|initrd|boot|imgfree|https://h/k|\n|x=y", 0..20)
    ) {
        if let Ok(script) = parse(&format!("#!ipxe\n{}", words.join(" "))) {
            proptest::prop_assert!(script.kernel_url.starts_with("https://"));
        }
    }
}
