// node producer.js PROMPT: sends one request and prints its job_id.
import { randomUUID } from "node:crypto";
import { readFileSync } from "node:fs";
import avro from "avsc";
import { Kafka, logLevel } from "kafkajs";

const schemas = process.env.SCHEMAS ?? new URL("../../schemas", import.meta.url).pathname;
const type = avro.Type.forSchema(JSON.parse(readFileSync(`${schemas}/generation_request.avsc`, "utf8")));
// C3 01 and the schema's fingerprint, from docs/contract.md.
const header = Buffer.from("c301aa1094f859032def", "hex");
const topic = `${process.env.KAFKA_TOPIC_PREFIX ?? ""}generation.requests.normal`;

const request = {
  job_id: process.env.JOB_ID || `order-${randomUUID()}`,
  girl_id: "luna",
  user_id: 1,
  prompt: process.argv[2],
  width: 512,
  height: 512,
};
const value = Buffer.concat([header, type.toBuffer(request)]); // adds the defaults of the other fields

const brokers = (process.env.KAFKA_BOOTSTRAP_SERVERS ?? "localhost:9092").split(",");
const producer = new Kafka({ brokers, logLevel: logLevel.ERROR }).producer({ idempotent: true });
await producer.connect();
await producer.send({ topic, messages: [{ key: request.job_id, value }] });
await producer.disconnect();
console.log(request.job_id);
