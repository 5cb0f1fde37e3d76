package flowstream.bench;

import java.util.Arrays;
import java.util.function.Consumer;

/** The flows of one source in one window, in order of (event time, partition, offset), and their distances. */
public final class Pairs {
    private static final int DIMENSIONS = 5;

    /** A flow as jobs b and c need it: its place in the order, and what is not constant of its features. */
    public record Point(long timeNs, int partition, long offset, double durationS, long bytes, long packets)
            implements Comparable<Point> {
        @Override
        public int compareTo(Point other) {
            int order = Long.compare(timeNs, other.timeNs);
            order = order != 0 ? order : Integer.compare(partition, other.partition);
            return order != 0 ? order : Long.compare(offset, other.offset);
        }
    }

    /** Takes one pair of flows, by their places in the window's order. */
    public interface Taker {
        void take(int first, int second, double distance);
    }

    private final double[] features;

    /** Sorts {@code points} in place. */
    public Pairs(Point[] points) {
        Arrays.sort(points);
        features = new double[points.length * DIMENSIONS];
        for (int i = 0; i < points.length; i++) {
            // duration, in_bytes, in_packets, out_bytes, out_packets; a one-way record has 0 for the way back
            features[i * DIMENSIONS] = points[i].durationS;
            features[i * DIMENSIONS + 3] = points[i].bytes;
            features[i * DIMENSIONS + 4] = points[i].packets;
        }
    }

    /** Return the number of flows. */
    public int flows() {
        return features.length / DIMENSIONS;
    }

    /** Write job b's or job c's results; a single flow has none. */
    public void emit(boolean each, String source, long windowStartMs, Consumer<byte[]> out) {
        if (each) {
            forEach((first, second, distance) ->
                    out.accept(Results.pair(source, windowStartMs, first, second, distance)));
        } else if (flows() > 1) {
            out.accept(Results.summary(source, windowStartMs, this));
        }
    }

    /** Give every pair to {@code taker}. */
    public void forEach(Taker taker) {
        int flows = flows();
        for (int first = 0; first < flows; first++) {
            for (int second = first + 1; second < flows; second++) {
                double square = 0;
                for (int k = 0; k < DIMENSIONS; k++) {
                    double apart = features[first * DIMENSIONS + k] - features[second * DIMENSIONS + k];
                    square += apart * apart;
                }
                taker.take(first, second, Math.sqrt(square));
            }
        }
    }
}
