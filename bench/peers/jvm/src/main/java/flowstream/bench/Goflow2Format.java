package flowstream.bench;

import java.io.IOException;
import java.util.Set;
import org.apache.flink.api.common.serialization.AbstractDeserializationSchema;
import org.apache.flink.api.common.serialization.DeserializationSchema;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.configuration.ConfigOption;
import org.apache.flink.configuration.ReadableConfig;
import org.apache.flink.table.connector.ChangelogMode;
import org.apache.flink.table.connector.format.DecodingFormat;
import org.apache.flink.table.connector.source.DynamicTableSource;
import org.apache.flink.table.data.GenericRowData;
import org.apache.flink.table.data.RowData;
import org.apache.flink.table.data.TimestampData;
import org.apache.flink.table.factories.DeserializationFormatFactory;
import org.apache.flink.table.factories.DynamicTableFactory;
import org.apache.flink.table.types.DataType;

/** The SQL format 'goflow2'; Flink's own protobuf format cannot read a message behind its length. */
public final class Goflow2Format implements DeserializationFormatFactory {
    @Override
    public DecodingFormat<DeserializationSchema<RowData>> createDecodingFormat(
            DynamicTableFactory.Context context, ReadableConfig options) {
        return new DecodingFormat<>() {
            @Override
            public DeserializationSchema<RowData> createRuntimeDecoder(
                    DynamicTableSource.Context source, DataType columns) {
                TypeInformation<RowData> rows = source.createTypeInformation(columns);
                return new Decoder(rows);
            }

            @Override
            public ChangelogMode getChangelogMode() {
                return ChangelogMode.insertOnly();
            }
        };
    }

    @Override
    public String factoryIdentifier() {
        return "goflow2";
    }

    @Override
    public Set<ConfigOption<?>> requiredOptions() {
        return Set.of();
    }

    @Override
    public Set<ConfigOption<?>> optionalOptions() {
        return Set.of();
    }

    /** Gives the columns of the table {@code flows}. */
    private static final class Decoder extends AbstractDeserializationSchema<RowData> {
        Decoder(TypeInformation<RowData> rows) {
            super(rows);
        }

        @Override
        public RowData deserialize(byte[] value) throws IOException {
            var flow = Messages.decode(value);
            return GenericRowData.of(
                    flow.getSrcAddr().toByteArray(),
                    flow.getBytes(),
                    flow.getPackets(),
                    TimestampData.fromEpochMillis(Messages.timeMs(flow.getTimeReceivedNs())));
        }
    }
}
