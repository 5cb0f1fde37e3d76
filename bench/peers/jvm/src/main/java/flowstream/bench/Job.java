package flowstream.bench;

import java.time.Duration;

/** What one run is asked to do; the arguments of all peers. */
public record Job(
        String name, String bootstrap, String input, String output, String group, Duration window, Duration grace) {

    /** Read the arguments; IllegalArgumentException names one that is missing or wrong. */
    public static Job parse(String[] args) {
        var job = new Job(
                required(args, "--job"),
                required(args, "--bootstrap"),
                required(args, "--input"),
                required(args, "--output"),
                required(args, "--group"),
                Duration.ofMillis(Long.parseLong(required(args, "--window-ms"))),
                Duration.ofMillis(Long.parseLong(required(args, "--grace-ms"))));
        if (!job.name.matches("[abc]")) {
            throw new IllegalArgumentException("--job " + job.name + " is not a, b or c");
        }
        return job;
    }

    private static String required(String[] args, String flag) {
        for (int i = 0; i + 1 < args.length; i += 2) {
            if (args[i].equals(flag)) {
                return args[i + 1];
            }
        }
        throw new IllegalArgumentException(flag + " is missing");
    }
}
