// Package extension holds the system extension against what Talos loads it with.
package extension

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/blang/semver/v4"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/extensions"
	"github.com/siderolabs/talos/pkg/machinery/extensions/services"
	"gopkg.in/yaml.v3"
)

// sizeLimit is what an extension may add to a machine's memory, in bytes.
const sizeLimit = 60 << 20

func directory(t *testing.T) string {
	t.Helper()

	dir := os.Getenv("EXTENSION")
	if dir == "" {
		t.Skip("EXTENSION names no directory; use run.sh")
	}

	return dir
}

func TestTalosLoadsAndAcceptsTheExtension(t *testing.T) {
	extension, err := extensions.Load(directory(t))
	if err != nil {
		t.Fatal(err)
	}

	for _, test := range []struct {
		version string
		fits    bool
	}{{"1.8.9", false}, {"1.9.0", true}, {"1.11.0", true}, {"1.13.9", true}} {
		version := semver.MustParse(test.version)

		err := extension.Validate(
			extensions.WithValidateConstraints(),
			extensions.WithValidateContents(),
			extensions.WithTalosVersion(&version),
		)
		if (err == nil) != test.fits {
			t.Errorf("Talos %s: %v", test.version, err)
		}
	}

	metadata := extension.Manifest.Metadata
	if metadata.Name != "bootlace" || metadata.Version == "" || metadata.Description == "" {
		t.Errorf("metadata %+v", metadata)
	}
}

func TestTalosAcceptsTheServiceAndFindsWhatItStarts(t *testing.T) {
	root := filepath.Join(directory(t), "rootfs")

	file, err := os.Open(filepath.Join(root, "usr/local/etc/containers/bootlace.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck

	// Talos parses loosely; a key that it would ignore is a mistake of ours.
	decoder := yaml.NewDecoder(file)
	decoder.KnownFields(true)

	var spec services.Spec
	if err := decoder.Decode(&spec); err != nil {
		t.Fatal(err)
	}

	if err := spec.Validate(); err != nil {
		t.Fatal(err)
	}

	container := filepath.Join(root, "usr/local/lib/containers", spec.Name)

	info, err := os.Stat(filepath.Join(container, spec.Container.Entrypoint))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("entrypoint: %v %v", info, err)
	}

	for _, mount := range spec.Container.Mounts {
		if _, err := os.Stat(filepath.Join(container, mount.Destination)); err != nil {
			t.Errorf("the root is read-only and has nothing to mount on: %v", err)
		}

		if strings.HasPrefix(mount.Source, "/var") {
			t.Errorf("%s is not there before a machine is installed", mount.Source)
		}
	}
}

func TestTheExtensionIsSmallAndHasOnlyPlainFiles(t *testing.T) {
	var total int64

	err := filepath.WalkDir(directory(t), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}

		info, err := entry.Info()
		if err != nil {
			return err
		}

		// What Talos' own check misses: it reads the permissions from where there are none.
		if mode := info.Mode(); mode.Type()&fs.ModeSymlink == 0 && mode.Perm()&0o022 != 0 {
			t.Errorf("%s has mode %v", path, mode)
		}

		if entry.Type().IsRegular() {
			total += info.Size()
		}

		return nil
	})
	if err != nil {
		t.Fatal(err)
	}

	t.Logf("%d bytes", total)

	if total > sizeLimit {
		t.Errorf("%d bytes, more than %d", total, sizeLimit)
	}
}

func TestTalosReadsTheExampleConfiguration(t *testing.T) {
	provider, err := configloader.NewFromFile("../../../configs/extension-service.yaml")
	if err != nil {
		t.Fatal(err)
	}

	configs := provider.ExtensionServiceConfigs()
	if len(configs) != 1 || configs[0].Name() != "bootlace" {
		t.Fatalf("%d configurations", len(configs))
	}

	for _, file := range configs[0].ConfigFiles() {
		if _, err := os.Stat(filepath.Join(directory(t), "rootfs/usr/local/lib/containers/bootlace", file.MountPath())); err != nil {
			t.Errorf("nothing to mount on: %v", err)
		}
	}
}
