package weir.test;

import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.EOFException;
import java.io.IOException;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.atomic.AtomicReference;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.DeletedRecords;
import org.apache.kafka.clients.admin.LogDirDescription;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.Node;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.header.internals.RecordHeaders;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Drives Apache Kafka's Java client from the tests. It decides nothing: "produce" sends the records it reads from
 * standard input, "consume" writes what it receives to standard output; the test compares every byte. "delete-records" and
 * "log-dirs" print what the admin client is told.
 *
 * <p>A record on either stream, big-endian: int partition, long offset, long timestamp, bytes key, bytes value, int
 * header count, then per header bytes name, bytes value. bytes is an int length, -1 for null, and that many bytes.
 *
 * <p>Arguments are key=value; keys with a dot are the client's own configuration.
 */
public final class Bridge {
  private Bridge() {}

  public static void main(String[] args) throws Exception {
    Map<String, String> own = new HashMap<>();
    Properties config = new Properties();
    for (int i = 1; i < args.length; i++) {
      int eq = args[i].indexOf('=');
      String key = args[i].substring(0, eq);
      String value = args[i].substring(eq + 1);
      if (key.contains(".")) {
        config.put(key, value);
      } else {
        own.put(key, value);
      }
    }
    switch (args[0]) {
      case "produce":
        produce(own.get("topic"), config);
        break;
      case "consume":
        consume(own.get("topic"), own.containsKey("group"), Long.parseLong(own.get("count")), config);
        break;
      case "delete-records":
        deleteRecords(own.get("topic"), Integer.parseInt(own.get("partition")), Long.parseLong(own.get("before")), config);
        break;
      case "log-dirs":
        describeLogDirs(own.get("topic"), config);
        break;
      default:
        throw new IllegalArgumentException("unknown command " + args[0]);
    }
  }

  /** Prints "low" and the low watermark, or "error" and the name of the exception. */
  private static void deleteRecords(String topic, int partition, long before, Properties config) throws Exception {
    TopicPartition at = new TopicPartition(topic, partition);
    try (Admin admin = Admin.create(config)) {
      DeletedRecords deleted = admin.deleteRecords(Map.of(at, RecordsToDelete.beforeOffset(before))).lowWatermarks().get(at).get();
      System.out.println("low " + deleted.lowWatermark());
    } catch (ExecutionException failure) {
      System.out.println("error " + failure.getCause().getClass().getSimpleName());
    }
  }

  /** Prints a line for each replica of the topic: directory, bytes of the volume, usable bytes, partition, size, lag. */
  private static void describeLogDirs(String topic, Properties config) throws Exception {
    try (Admin admin = Admin.create(config)) {
      List<Integer> brokers = new ArrayList<>();
      for (Node node : admin.describeCluster().nodes().get()) {
        brokers.add(node.id());
      }
      for (Map<String, LogDirDescription> dirs : admin.describeLogDirs(brokers).allDescriptions().get().values()) {
        dirs.forEach(
            (dir, described) ->
                described
                    .replicaInfos()
                    .forEach(
                        (at, replica) -> {
                          if (at.topic().equals(topic)) {
                            System.out.printf(
                                "%s %d %d %d %d %d%n",
                                dir, described.totalBytes().orElse(-1), described.usableBytes().orElse(-1), at.partition(),
                                replica.size(), replica.offsetLag());
                          }
                        }));
      }
    }
  }

  private static void produce(String topic, Properties config) throws Exception {
    DataInputStream in = new DataInputStream(new BufferedInputStream(System.in, 1 << 20));
    AtomicReference<Exception> failure = new AtomicReference<>();
    try (KafkaProducer<byte[], byte[]> producer =
        new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
      while (failure.get() == null) {
        ProducerRecord<byte[], byte[]> record = read(in, topic);
        if (record == null) {
          break;
        }
        producer.send(
            record,
            (metadata, error) -> {
              if (error != null) {
                failure.compareAndSet(null, error);
              }
            });
      }
      producer.flush();
    }
    if (failure.get() != null) {
      throw failure.get();
    }
  }

  private static ProducerRecord<byte[], byte[]> read(DataInputStream in, String topic) throws IOException {
    int partition;
    try {
      partition = in.readInt();
    } catch (EOFException end) {
      return null;
    }
    in.readLong();
    long timestamp = in.readLong();
    byte[] key = readBytes(in);
    byte[] value = readBytes(in);
    RecordHeaders headers = new RecordHeaders();
    for (int n = in.readInt(); n > 0; n--) {
      String name = new String(readBytes(in), "UTF-8");
      headers.add(new RecordHeader(name, readBytes(in)));
    }
    return new ProducerRecord<>(topic, partition, timestamp, key, value, headers);
  }

  private static void consume(String topic, boolean group, long count, Properties config) throws Exception {
    DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 20));
    try (KafkaConsumer<byte[], byte[]> consumer =
        new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
      if (group) {
        consumer.subscribe(List.of(topic));
      } else {
        List<TopicPartition> partitions = new ArrayList<>();
        for (PartitionInfo info : consumer.partitionsFor(topic)) {
          partitions.add(new TopicPartition(topic, info.partition()));
        }
        consumer.assign(partitions);
        consumer.seekToBeginning(partitions);
      }
      for (long got = 0; got < count; ) {
        ConsumerRecords<byte[], byte[]> records = consumer.poll(Duration.ofSeconds(1));
        for (ConsumerRecord<byte[], byte[]> record : records) {
          write(out, record);
        }
        got += records.count();
      }
      out.flush();
      if (group) {
        consumer.commitSync();
      }
    }
  }

  private static void write(DataOutputStream out, ConsumerRecord<byte[], byte[]> record) throws IOException {
    out.writeInt(record.partition());
    out.writeLong(record.offset());
    out.writeLong(record.timestamp());
    writeBytes(out, record.key());
    writeBytes(out, record.value());
    Header[] headers = record.headers().toArray();
    out.writeInt(headers.length);
    for (Header header : headers) {
      writeBytes(out, header.key().getBytes("UTF-8"));
      writeBytes(out, header.value());
    }
  }

  private static byte[] readBytes(DataInputStream in) throws IOException {
    int n = in.readInt();
    if (n < 0) {
      return null;
    }
    byte[] bytes = new byte[n];
    in.readFully(bytes);
    return bytes;
  }

  private static void writeBytes(DataOutputStream out, byte[] bytes) throws IOException {
    if (bytes == null) {
      out.writeInt(-1);
      return;
    }
    out.writeInt(bytes.length);
    out.write(bytes);
  }
}
