package flowstream.bench;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ExecutionException;
import java.util.stream.IntStream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.config.TopicConfig;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/**
 * The topics in between: one for each partition of the input, each with one partition.
 *
 * <p>The DSL's own repartition topic would mix the input's partitions in the order they happen to be read, and stream
 * time, being the latest time of any of them, would pass records that are merely behind. As separate inputs of one
 * task they are taken in order of time.
 */
final class RoutedTopics {
    private static final int KNOWN_WITHIN_MS = 20_000;

    // As Streams has it for topics of its own: the broker would delete by event time, which may be years ago.
    private static final Map<String, String> FOREVER = Map.of(TopicConfig.RETENTION_MS_CONFIG, "-1");

    private RoutedTopics() {}

    /** Create the topics unless they are there; return their names, in order of the input's partitions. */
    static List<String> create(Job job) throws Exception {
        try (var admin = Admin.create(Map.<String, Object>of("bootstrap.servers", job.bootstrap()))) {
            var input = admin.describeTopics(List.of(job.input())).allTopicNames().get().get(job.input());
            var names = IntStream.range(0, input.partitions().size())
                    .mapToObj(partition -> job.group() + "-by-source-" + partition)
                    .toList();
            for (var name : names) {
                try {
                    admin.createTopics(List.of(new NewTopic(name, 1, (short) -1).configs(FOREVER))).all().get();
                } catch (ExecutionException error) {
                    if (!(error.getCause() instanceof TopicExistsException)) {
                        throw error;
                    }
                }
            }
            awaitKnown(admin, names);
            return names;
        }
    }

    // A broker answers before it knows a new topic itself, and Streams ends where a topic of its is not known.
    private static void awaitKnown(Admin admin, List<String> names) throws Exception {
        long deadline = System.currentTimeMillis() + KNOWN_WITHIN_MS;
        while (true) {
            try {
                admin.describeTopics(names).allTopicNames().get();
                return;
            } catch (ExecutionException error) {
                boolean unknown = error.getCause() instanceof UnknownTopicOrPartitionException;
                if (!unknown || System.currentTimeMillis() > deadline) {
                    throw error;
                }
                Thread.sleep(50);
            }
        }
    }
}
