"""The contract with other programs, generated from the code: docs/contract.md and docs/asyncapi.yaml."""
