// Report reads what `go test -json` prints and says what it comes to, in one line at the end:
//
//	go test -json . | go run ./cmd/report deviations.txt
//
// It fails when a test failed that is not listed, when a listed one did not fail as listed, when a test was skipped
// and when none ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"slices"
	"strings"
)

// maxLine is the longest line read: a test may print a whole resource.
const maxLine = 16 << 20

type event struct {
	Action, Test, Output string
}

type test struct {
	result string
	output strings.Builder
	// parent has subtests, which are counted in its place.
	parent bool
}

type deviation struct {
	text, reason string
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: report DEVIATIONS < EVENTS")
	}

	tests, outside := read()

	failed := judge(tests, deviations(os.Args[1]))
	if failed {
		fmt.Print(outside)
		os.Exit(1)
	}
}

// read collects the tests, and what was printed outside of any: errors of the compiler.
func read() (map[string]*test, string) {
	tests := map[string]*test{}

	var outside strings.Builder

	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, maxLine)

	for lines.Scan() {
		var one event
		if json.Unmarshal(lines.Bytes(), &one) != nil {
			fmt.Fprintln(&outside, lines.Text())

			continue
		}

		if one.Test == "" {
			outside.WriteString(one.Output)

			continue
		}

		found, ok := tests[one.Test]
		if !ok {
			found = &test{result: "unfinished"}
			tests[one.Test] = found
		}

		switch one.Action {
		case "output":
			found.output.WriteString(one.Output)
		case "pass", "fail", "skip":
			found.result = one.Action
		}
	}

	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}

	for name := range tests {
		for at := strings.LastIndex(name, "/"); at >= 0; at = strings.LastIndex(name[:at], "/") {
			if parent, ok := tests[name[:at]]; ok {
				parent.parent = true
			}
		}
	}

	return tests, outside.String()
}

func judge(tests map[string]*test, listed map[string]deviation) bool {
	var passed, failed, deviated int

	broken := map[string]bool{}

	for _, name := range slices.Sorted(maps.Keys(tests)) {
		found := tests[name]
		known, isListed := listed[name]

		switch {
		case found.parent:
			continue
		case found.result == "pass" && !isListed:
			passed++

			continue
		case found.result == "fail" && isListed && strings.Contains(found.output.String(), known.text):
			deviated++

			fmt.Printf("deviation: %s: %s\n", name, known.reason)
		case isListed:
			failed++

			fmt.Printf("FAIL: %s is listed as a deviation (%s), but its result is %s\n%s", name, known.text, found.result,
				found.output.String())
		default:
			failed++

			fmt.Printf("FAIL: %s: %s\n%s", name, found.result, found.output.String())
		}

		for at := strings.LastIndex(name, "/"); at >= 0; at = strings.LastIndex(name[:at], "/") {
			broken[name[:at]] = true
		}
	}

	// A test with subtests may fail by itself.
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		if found := tests[name]; found.parent && found.result != "pass" && !broken[name] {
			failed++

			fmt.Printf("FAIL: %s: %s\n%s", name, found.result, found.output.String())
		}
	}

	fmt.Printf("conformance: %d passed, %d failed, %d skipped\n", passed, failed, deviated)

	return failed > 0 || passed == 0
}

func deviations(path string) map[string]deviation {
	text, err := os.ReadFile(path)
	if err != nil {
		log.Fatal(err)
	}

	listed := map[string]deviation{}

	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}

		parts := strings.Split(line, "|")
		if len(parts) != 3 {
			log.Fatalf("%s: not three parts: %s", path, line)
		}

		listed[strings.TrimSpace(parts[0])] = deviation{strings.TrimSpace(parts[1]), strings.TrimSpace(parts[2])}
	}

	return listed
}
