//! What the kernel command line tells the agent.

use crate::wipe::Orders;
use agent_wire::keep::{CMDLINE_LIMIT, Keep, KeepError};

/// The arguments that matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `talos.config`: where the join configuration is, with variables still in it.
    pub config_url: Option<String>,
    /// `metal.provider.address`: where the tunnel goes.
    pub provider: Option<String>,
    /// `metal.provider.tls.skip.verify`: any certificate will do.
    pub skip_verify: bool,
    /// `metal.provider.test.mode`: power is switched by an API outside of the machine.
    pub test_mode: bool,
    /// `bootlace.keep`, `bootlace.medium` and `bootlace.wipe`.
    orders: Orders,
}

impl Cmdline {
    /// Reads `/proc/cmdline`. The last of equal arguments wins, as in Talos; but keep lists add up.
    pub fn parse(text: &str) -> Self {
        let mut cmdline = Self::default();
        for argument in text.split_ascii_whitespace() {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            match key {
                "talos.config" if !value.is_empty() => cmdline.config_url = Some(value.to_owned()),
                "metal.provider.address" if !value.is_empty() => cmdline.provider = Some(value.to_owned()),
                "metal.provider.test.mode" => cmdline.test_mode = is_true(value),
                "metal.provider.tls.skip.verify" => cmdline.skip_verify = is_true(value),
                "bootlace.keep" => cmdline.orders.add_keep(Keep::parse(value)),
                "bootlace.medium" if !value.is_empty() => {
                    cmdline.orders.medium.push(value.to_ascii_lowercase());
                }
                "bootlace.wipe" => cmdline.orders.secure = value == "secure",
                _ => {}
            }
        }
        if text.trim_end_matches(['\n', '\0']).len() >= CMDLINE_LIMIT {
            cmdline.orders.add_keep(Err(KeepError::CutOff));
        }
        cmdline
    }

    /// What it says about wiping.
    pub fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// The tunnel's address as a URI.
    pub fn provider_uri(&self) -> Option<String> {
        let address = self.provider.as_deref()?.trim_end_matches('/');
        let schemed = address.starts_with("https://") || address.starts_with("http://");
        Some(if schemed { address.to_owned() } else { format!("http://{address}") })
    }
}

/// As Go reads a Boolean.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "True" | "TRUE")
}

/// Puts the machine's own values in place of Talos' variables, plain or percent-encoded. A variable without
/// a value stays, as in Talos.
pub fn substitute(url: &str, uuid: &str, mac: Option<&str>, serial: Option<&str>) -> String {
    let mut url = url.to_owned();
    for (name, value) in [("uuid", Some(uuid)), ("mac", mac), ("serial", serial)] {
        let Some(value) = value.filter(|value| !value.is_empty()) else { continue };
        for form in [format!("${{{name}}}"), format!("%24%7B{name}%7D"), format!("%24%7b{name}%7d")] {
            url = url.replace(&form, value);
        }
    }
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_of_an_agent_boot_are_read() {
        let cmdline = Cmdline::parse(
            "initrd=x talos.config=http://10.0.0.1:50042/config?u=${uuid} console=tty0 console=ttyS0 \
             metal.provider.address=10.0.0.1:50042 metal.provider.test.mode=1\n",
        );
        assert_eq!(cmdline.config_url.as_deref(), Some("http://10.0.0.1:50042/config?u=${uuid}"));
        assert_eq!(cmdline.provider_uri().as_deref(), Some("http://10.0.0.1:50042"));
        assert!(cmdline.test_mode);
    }

    #[test]
    fn without_arguments_there_is_nothing() {
        assert_eq!(Cmdline::parse(""), Cmdline::default());
        assert_eq!(Cmdline::parse("talos.config= metal.provider.address"), Cmdline::default());
        assert_eq!(Cmdline::default().provider_uri(), None);
    }

    #[test]
    fn a_provider_over_tls_stays_one() {
        let cmdline = Cmdline::parse("metal.provider.address=https://10.0.0.1:50043/");
        assert_eq!(cmdline.provider_uri().as_deref(), Some("https://10.0.0.1:50043"));
        assert!(!cmdline.skip_verify);
        assert!(Cmdline::parse("metal.provider.tls.skip.verify=1").skip_verify);
    }

    #[test]
    fn keep_lists_add_up_and_a_bad_one_keeps_everything() {
        let orders = |text: &str| Cmdline::parse(text).orders();
        let keep = orders("bootlace.keep=serial:A bootlace.keep=size:>=2T").keep.unwrap();
        assert_eq!(keep, Keep::parse("serial:A,size:>=2T").unwrap());
        assert!(orders("bootlace.keep=size:huge bootlace.keep=serial:A").keep.is_err());
        assert!(orders("bootlace.keep=serial:A bootlace.keep=size:huge").keep.is_err());
        assert_eq!(orders("quiet"), Orders::default());
        let full = format!("bootlace.keep=serial:{}\n", "x".repeat(CMDLINE_LIMIT));
        assert_eq!(orders(&full[..CMDLINE_LIMIT]).keep, Err(KeepError::CutOff));
        assert!(orders(&full[..CMDLINE_LIMIT - 1]).keep.is_ok());
    }

    #[test]
    fn the_boot_medium_and_a_secure_wipe_are_read() {
        let orders = Cmdline::parse("bootlace.medium=ABCD-1 bootlace.wipe=secure").orders();
        assert_eq!((orders.medium, orders.secure), (vec!["abcd-1".to_owned()], true));
    }

    #[test]
    fn variables_are_replaced_in_either_form() {
        let url =
            substitute("http://a/c?u=${uuid}&v=%24%7Buuid%7D&m=${mac}&s=${serial}", "id", Some("m"), None);
        assert_eq!(url, "http://a/c?u=id&v=id&m=m&s=${serial}");
    }
}
