// The page is built on the gateway's API (docs/gateway.md).
