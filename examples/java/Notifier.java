// Notifier: prints one line for each picture and each failure, until it is stopped.
import java.nio.file.Path;
import java.time.Duration;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.avro.message.SchemaStore;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Notifier {
    static String env(String name, String otherwise) {
        return Optional.ofNullable(System.getenv(name)).orElse(otherwise);
    }

    public static void main(String[] args) throws Exception {
        var store = new SchemaStore.Cache(); // finds the writer's schema by the fingerprint in the value
        for (var name : List.of("generation_completed", "generation_failed"))
            store.addSchema(new Schema.Parser().parse(Path.of(env("SCHEMAS", "../../schemas"), name + ".avsc").toFile()));
        var decoder = new BinaryMessageDecoder<GenericRecord>(new GenericData(), null, store);
        var prefix = env("KAFKA_TOPIC_PREFIX", "");
        Map<String, Object> config = Map.of("bootstrap.servers", env("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
                "group.id", "notifier-java", "enable.auto.commit", false, "auto.offset.reset", "earliest",
                "isolation.level", "read_committed"); // not the default of this client
        var seen = new HashSet<String>(); // yours: a table that is written together with what the event causes

        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(prefix + "generation.completed", prefix + "generation.failed"));
            while (true) {
                for (var record : consumer.poll(Duration.ofSeconds(1))) {
                    if (!seen.add(new String(record.headers().lastHeader("ce_id").value()))) continue;
                    var event = decoder.decode(record.value());
                    System.out.println(event.hasField("image_url")
                            ? "completed " + event.get("job_id") + " " + event.get("image_url")
                            : "failed " + event.get("job_id") + " " + event.get("error_code") + " " + event.get("error_message"));
                }
                consumer.commitSync();
            }
        }
    }
}
