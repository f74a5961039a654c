//! One plot: how long the phases of a load took.

use std::fmt::Write as _;

use crate::report::{Report, count};

const WIDTH: f64 = 900.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 64.0;
const ROW: f64 = 34.0;
/// The scale begins here; nothing on a network is faster.
const LEAST_US: f64 = 10.0;

/// A bar for each phase on a logarithmic scale: to the median in full colour, to p99 lighter, a tick at the longest.
#[must_use]
pub fn plot(report: &Report) -> String {
    let longest = report.phases.iter().map(|phase| phase.max_us).max().unwrap_or_default();
    let decades = (count(longest).max(LEAST_US * 10.0) / LEAST_US).log10().ceil();
    let x = |micros: f64| LEFT + (micros.max(LEAST_US) / LEAST_US).log10() / decades * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * count(report.phases.len() as u64) + 40.0;
    let mut out = String::new();
    let mut put = |line: std::fmt::Arguments<'_>| {
        out.write_fmt(line).expect("a string takes everything");
        out.push('\n');
    };
    put(format_args!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\">"
    ));
    put(format_args!("<rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#fff\"/>"));
    put(format_args!(
        "<text x=\"16\" y=\"26\" font-size=\"16\">{}: {} clients, {} done, {} failed, {:.1} s</text>",
        escape(&report.load),
        report.clients,
        report.done,
        report.failures(),
        report.seconds
    ));
    put(format_args!(
        "<text x=\"16\" y=\"46\" fill=\"#555\">dark: p50, light: p99, line: longest; logarithmic</text>"
    ));
    let bottom = height - 40.0;
    let mut mark = LEAST_US;
    while mark <= LEAST_US * 10_f64.powf(decades) * 1.01 {
        let at = x(mark);
        put(format_args!(
            "<line x1=\"{at:.1}\" y1=\"{TOP}\" x2=\"{at:.1}\" y2=\"{bottom}\" stroke=\"#ddd\"/>"
        ));
        put(format_args!(
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555\">{}</text>",
            bottom + 20.0,
            duration(mark)
        ));
        mark *= 10.0;
    }
    let mut y = TOP;
    for phase in &report.phases {
        let (middle, tall) = (y + ROW / 2.0, ROW - 12.0);
        put(format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            LEFT - 10.0,
            middle + 4.0,
            escape(&phase.name)
        ));
        for (until, colour) in [(phase.p99_us, "#a9c7e8"), (phase.p50_us, "#2f6db5")] {
            put(format_args!(
                "<rect x=\"{LEFT}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall}\" fill=\"{colour}\"/>",
                y + 6.0,
                (x(count(until)) - LEFT).max(1.0)
            ));
        }
        let end = x(count(phase.max_us));
        put(format_args!(
            "<line x1=\"{end:.1}\" y1=\"{:.1}\" x2=\"{end:.1}\" y2=\"{:.1}\" stroke=\"#123\" stroke-width=\"2\"/>",
            y + 6.0,
            y + ROW - 6.0
        ));
        y += ROW;
    }
    out.push_str("</svg>\n");
    out
}

fn duration(micros: f64) -> String {
    if micros >= 1e6 {
        format!("{} s", micros / 1e6)
    } else if micros >= 1e3 {
        format!("{} ms", micros / 1e3)
    } else {
        format!("{micros} µs")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Unit;
    use crate::stats::Phase;

    /// Tags open and close in order, and quotes are paired.
    fn well_formed(text: &str) -> bool {
        let mut open = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            let Some(end) = rest[start..].find('>') else { return false };
            let tag = &rest[start + 1..start + end];
            if !tag.matches('"').count().is_multiple_of(2) || tag.contains('<') {
                return false;
            }
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return false;
                }
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap_or_default());
            }
            rest = &rest[start + end + 1..];
        }
        open.is_empty()
    }

    #[test]
    fn a_plot_is_well_formed_and_shows_every_phase() {
        let mut report = Report::new("storm <&>", 5, Unit::Bytes);
        report.phases = vec![Phase::of("dhcp", vec![100, 200]), Phase::of("kernel", vec![3_000_000])];
        let svg = plot(&report);
        assert!(svg.starts_with("<svg ") && well_formed(&svg), "{svg}");
        assert!(
            svg.contains(">dhcp</text>")
                && svg.contains(">kernel</text>")
                && svg.contains("storm &lt;&amp;&gt;")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn a_load_without_phases_has_an_empty_plot() {
        let svg = plot(&Report::new("idle", 0, Unit::Starts));
        assert!(well_formed(&svg) && !svg.contains("NaN"), "{svg}");
    }
}
