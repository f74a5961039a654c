// Package vectors is the form of go.json: keys and signatures that Go shows to Rust, see
// omni-link/auth/tests/vectors.
package vectors

import (
	"encoding/json"
	"os"
)

// File is all of it.
type File struct {
	// By is the library that made them.
	By string `json:"by"`
	// Keys the other side must take.
	Keys []Key `json:"keys"`
	// Refused are service account keys that must be refused without a panic.
	Refused []Refused `json:"refused"`
}

// Key is a service account key and what was signed with it.
type Key struct {
	What string `json:"what"`
	// Env is the value of OMNI_SERVICE_ACCOUNT_KEY.
	Env         string `json:"env"`
	Name        string `json:"name"`
	UserID      string `json:"user_id"`
	Fingerprint string `json:"fingerprint"`
	// Public is the armored public key.
	Public string `json:"public"`
	// Created and Expires are Unix seconds; Expires is 0 when the key does not expire.
	Created int64  `json:"created"`
	Expires int64  `json:"expires"`
	Calls   []Call `json:"calls"`
}

// Call is one call as its server sees it.
type Call struct {
	What   string `json:"what"`
	Method string `json:"method"`
	// Headers are all the metadata of the call.
	Headers map[string][]string `json:"headers"`
	// At is the server's clock, Unix seconds.
	At int64 `json:"at"`
	// Accepted is the verdict of Omni's own verifier.
	Accepted bool `json:"accepted"`
}

// Refused is a service account key that nobody can use.
type Refused struct {
	What string `json:"what"`
	Env  string `json:"env"`
}

// Read reads a file of vectors.
func Read(path string) (File, error) {
	var file File

	text, err := os.ReadFile(path)
	if err != nil {
		return file, err
	}

	return file, json.Unmarshal(text, &file)
}
