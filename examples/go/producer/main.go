// go run ./producer PROMPT: sends one request and prints its job_id.
package main

import (
	"cmp"
	"context"
	"encoding/hex"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/hamba/avro/v2"
	"github.com/twmb/franz-go/pkg/kgo"
)

// C3 01 and the schema's fingerprint, from docs/contract.md (hamba/avro's own fingerprint is not the specification's).
const header = "c301aa1094f859032def"

func env(name, otherwise string) string { return cmp.Or(os.Getenv(name), otherwise) }

func main() {
	schema := avro.MustParse(read("generation_request.avsc"))
	id := env("JOB_ID", fmt.Sprintf("order-%d", time.Now().UnixNano()))
	value, err := hex.DecodeString(header)
	check(err)
	record, err := avro.Marshal(schema, map[string]any{ // adds the defaults of the other fields
		"job_id": id, "girl_id": "luna", "user_id": int64(1), "prompt": os.Args[1], "width": 512, "height": 512,
	})
	check(err)

	client, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"), ",")...))
	check(err)
	defer client.Close()
	topic := env("KAFKA_TOPIC_PREFIX", "") + "generation.requests.normal"
	message := &kgo.Record{Topic: topic, Key: []byte(id), Value: append(value, record...)}
	check(client.ProduceSync(context.Background(), message).FirstErr())
	fmt.Println(id)
}

func read(name string) string {
	text, err := os.ReadFile(env("SCHEMAS", "../../schemas") + "/" + name)
	check(err)
	return string(text)
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
