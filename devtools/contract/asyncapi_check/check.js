// node check.js FILE: AsyncAPI's own parser, with its Avro plug-in. Prints what it found; exit code 1 on an error.
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
import { AvroSchemaParser } from "@asyncapi/avro-schema-parser";

const parser = new Parser();
parser.registerSchemaParser(AvroSchemaParser());
const { document, diagnostics } = await parser.parse(readFileSync(process.argv[2], "utf8"));
for (const { severity, message, path } of diagnostics) {
  console.log(`${["error", "warning", "info", "hint"][severity]} ${path.join(".")}: ${message}`);
}
if (!document || diagnostics.some(({ severity }) => severity < 2)) process.exit(1);
for (const channel of document.channels()) {
  const messages = channel.messages().all().map((message) => message.id());
  const operations = channel.operations().all().map((operation) => operation.action());
  console.log(`${operations} ${channel.address()} ${messages}`);
}
