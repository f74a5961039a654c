//! The handle on an appliance, tried with a program that only pretends to be one.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use testbed::{ApplianceSpec, Bed};

use crate::{SOON, processes};

/// Takes the same arguments as `bootlace`. Each run appends an event to the journal; `journal` prints them all and
/// ends when the appliance does. Perl, because Debian always has it.
const PRETENDER: &str = r#"#!/usr/bin/perl
use strict; use IO::Socket::UNIX;
my ($command) = @ARGV; my $config = $ARGV[-1];
open(my $in, '<', $config) or die "no config"; my $text = join '', <$in>;
my ($state) = $text =~ /^state_dir = "(.*)"/m or die "no state_dir in the config";
die "told to fail\n" if $text =~ /^fail = true/m;
if ($command eq 'run') {
    mkdir $state; unlink "$state/bootlace.sock";
    open(my $out, '>>', "$state/journal"); print $out "run\n"; close $out;
    my $socket = IO::Socket::UNIX->new(Local => "$state/bootlace.sock", Listen => 5) or die "no socket: $!";
    my @clients; while (my $client = $socket->accept) { push @clients, $client }
} elsif ($command eq 'journal') {
    my $socket = IO::Socket::UNIX->new(Peer => "$state/bootlace.sock") or die "the appliance does not answer";
    $| = 1; my $seq = 0;
    open(my $events, '<', "$state/journal");
    while (<$events>) { $seq++; print qq({"seq":$seq,"at_ms":$seq,"step":"removed"}\n) }
    sysread($socket, my $nothing, 1);
} elsif ($command eq 'machines') {
    print qq(["$ARGV[1]", "$ARGV[2]", "$ARGV[3]"]\n);
} else { print STDERR "what?\n"; exit 2 }
"#;

fn pretender(bed: &Bed) -> PathBuf {
    let path = bed.dir().join("pretender");
    std::fs::write(&path, PRETENDER).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn an_appliance_is_started_killed_and_started_again_and_its_journal_goes_on() {
    let bed = Bed::start().unwrap();
    let mut appliance = bed.appliance(ApplianceSpec::new(pretender(&bed), bed.dir())).unwrap();
    let first = appliance.pid().unwrap();
    assert!(processes(bed.id()).contains(&first.cast_signed()), "it lives in a namespace of the bed");
    let said: [String; 3] = appliance.cli_json(&["machines", "list"]).unwrap();
    assert_eq!(said, ["list", "-o", "json"]);
    let error = appliance.cli_ok(&["dance"]).unwrap_err().to_string();
    assert!(error.contains("exit status: 2") && error.contains("what?"), "{error}");

    let journal = appliance.journal().unwrap();
    journal.wait(SOON, "first run", |entry| entry.seq() == Some(1)).unwrap();
    appliance.kill9();
    assert_eq!(appliance.pid(), None);
    appliance.restart().unwrap();
    assert_ne!(appliance.pid(), Some(first));
    journal.wait(SOON, "second run", |entry| entry.seq() == Some(2)).unwrap();
    assert_eq!(journal.entries().len(), 2, "nothing is told twice");
    drop((journal, appliance));
    assert_eq!(processes(bed.id()).len(), 1, "only dnsmasq is left");
}

#[test]
fn an_appliance_that_does_not_start_says_why() {
    let bed = Bed::start().unwrap();
    let spec = ApplianceSpec::new(pretender(&bed), bed.dir()).config("fail = true\n");
    let error = format!("{:#}", bed.appliance(spec).unwrap_err());
    assert!(error.contains("told to fail") && error.contains("it ended with"), "{error}");
    let error = format!("{:#}", bed.appliance(ApplianceSpec::new("/no/such", bed.dir())).unwrap_err());
    assert!(error.contains("/no/such"), "{error}");
}
