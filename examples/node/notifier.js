// node notifier.js: prints one line for each picture and each failure, until it is stopped.
import { readFileSync } from "node:fs";
import avro from "avsc";
import { Kafka, logLevel } from "kafkajs";

const schemas = process.env.SCHEMAS ?? new URL("../../schemas", import.meta.url).pathname;
const read = (name) => avro.Type.forSchema(JSON.parse(readFileSync(`${schemas}/${name}.avsc`, "utf8")));
// What a value begins with, from docs/contract.md, and the schema that follows.
const readers = {
  c3017dee58ab49c4c4a3: read("generation_completed"),
  c3010eb404de157ae617: read("generation_failed"),
};
const prefix = process.env.KAFKA_TOPIC_PREFIX ?? "";

const brokers = (process.env.KAFKA_BOOTSTRAP_SERVERS ?? "localhost:9092").split(",");
const kafka = new Kafka({ brokers, logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: "notifier-node", readUncommitted: false });
await consumer.connect();
await consumer.subscribe({ topics: [`${prefix}generation.completed`, `${prefix}generation.failed`], fromBeginning: true });
const seen = new Set(); // yours: a table that is written together with what the event causes

await consumer.run({
  autoCommit: false,
  eachMessage: async ({ topic, partition, message }) => {
    const id = message.headers.ce_id.toString();
    if (!seen.has(id)) {
      seen.add(id);
      const event = readers[message.value.subarray(0, 10).toString("hex")].fromBuffer(message.value.subarray(10));
      if ("image_url" in event) console.log("completed", event.job_id, event.image_url);
      else console.log("failed", event.job_id, event.error_code, event.error_message);
    }
    await consumer.commitOffsets([{ topic, partition, offset: `${BigInt(message.offset) + 1n}` }]);
  },
});
