package flowstream.bench;

import java.io.IOException;
import java.time.Duration;
import java.util.Map;
import java.util.Properties;
import org.apache.flink.configuration.CheckpointingOptions;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.ExecutionOptions;
import org.apache.flink.configuration.MemorySize;
import org.apache.flink.configuration.PipelineOptions;
import org.apache.flink.configuration.RestartStrategyOptions;
import org.apache.flink.configuration.StateBackendOptions;
import org.apache.flink.configuration.TaskManagerOptions;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** What both Flink peers are set to. */
final class FlinkSettings {
    static final Map<String, String> CONSUMER =
            Map.of("isolation.level", "read_committed", "max.poll.records", "10000");
    static final Map<String, String> PRODUCER = Map.of(
            "linger.ms", "100",
            "batch.size", Integer.toString(1 << 18),
            "buffer.memory", Integer.toString(64 << 20),
            "compression.type", "lz4");

    private FlinkSettings() {}

    /** Return an environment of this process: one slot, state on the heap, a checkpoint every ten seconds. */
    static StreamExecutionEnvironment environment() throws IOException {
        var settings = new Configuration();
        settings.set(PipelineOptions.OBJECT_REUSE, true);
        settings.set(StateBackendOptions.STATE_BACKEND, "hashmap");
        settings.set(TaskManagerOptions.MANAGED_MEMORY_SIZE, MemorySize.ofMebiBytes(64)); // for SQL's windows
        settings.set(ExecutionOptions.BUFFER_TIMEOUT, Duration.ofMillis(100));
        settings.set(CheckpointingOptions.CHECKPOINTING_INTERVAL, Duration.ofSeconds(10));
        settings.set(CheckpointingOptions.CHECKPOINT_STORAGE, "filesystem");
        settings.set(
                CheckpointingOptions.CHECKPOINTS_DIRECTORY,
                Scratch.folder("flink").toUri().toString());
        settings.set(RestartStrategyOptions.RESTART_STRATEGY, "none");
        return StreamExecutionEnvironment.createLocalEnvironment(1, settings);
    }

    static Properties properties(Map<String, String> settings) {
        var properties = new Properties();
        properties.putAll(settings);
        return properties;
    }
}
