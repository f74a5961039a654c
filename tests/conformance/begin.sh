# What every suite begins with: its run.sh sources this. Gives `root`, the project, and `target`, where cargo's profiles are.
if ! command -v go >/dev/null; then
	echo "conformance: go is not installed" >&2
	exit 1
fi
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=$root/target/$(rustc -vV | sed -n 's/^host: //p')
