# Short names for the commands of README.md.
.PHONY: devnet test ci
devnet:
	cargo run --release -- devnet
test:
	cargo nextest run --workspace
ci:
	.ci/run
