/*-------------------------------------------------------------------------
 *
 * kafka_settings.c
 *	  How a consumer is configured
 *
 * Three layers, each over the one before: what suits a database better than
 * librdkafka's defaults, what the foreign server and the user mapping say, and
 * what kappa's promises rest on.
 *
 * IDENTIFICATION
 *	  src/kafka_settings.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_private.h"
#include "kappa.h"

/* About half of what librdkafka's bookkeeping for a message takes. */
#define MESSAGE_OVERHEAD 128

/*
 * What a broker sends at once, at most: of all partitions, and of one.  Asked for
 * 4 MB instead of 2, brokers take two thirds of the processor time, and for 8 hardly
 * less; beyond that malloc() maps and unmaps the memory of each response.
 */
#define MAX_RESPONSE (8 * 1024 * 1024)
#define MAX_PARTITION_RESPONSE (2 * 1024 * 1024)

/*
 * The one way to set a property.  Throws; the half-built client is cleaned up
 * with its memory context.
 */
static void
set_conf(KafkaClient *client, const char *name, const char *value, bool secret)
{
	char errstr[512];
	rd_kafka_conf_res_t res;

	res = rd_kafka_conf_set(client->conf, name, value, errstr, sizeof(errstr));
	if (res == RD_KAFKA_CONF_OK)
		return;

	/* librdkafka repeats the value in its message: not for a secret. */
	ereport(ERROR,
			(errcode(res == RD_KAFKA_CONF_UNKNOWN
						 ? ERRCODE_FDW_INVALID_OPTION_NAME
						 : ERRCODE_INVALID_PARAMETER_VALUE),
			 res == RD_KAFKA_CONF_UNKNOWN
				 ? errmsg("librdkafka has no configuration property \"%s\"", name)
				 : errmsg("invalid value for Kafka configuration property \"%s\"", name),
			 secret ? 0 : errdetail_internal("%s", errstr)));
}

static void
set_conf_int(KafkaClient *client, const char *name, int64 value)
{
	char buf[32];

	snprintf(buf, sizeof(buf), INT64_FORMAT, value);
	set_conf(client, name, buf, false);
}

bool
kappa_kafka_same_config(const KafkaConfig *a, const KafkaConfig *b)
{
	if (a->nproperties != b->nproperties)
		return false;
	for (int i = 0; i < a->nproperties; i++)
		if (strcmp(a->properties[i].name, b->properties[i].name) != 0 ||
			strcmp(a->properties[i].value, b->properties[i].value) != 0)
			return false;
	return true;
}

/* What suits a database better than librdkafka's defaults; users may differ. */
static void
set_defaults(KafkaClient *client)
{
	set_conf(client, "client.id", "kappa", false);

	/*
	 * A broker that is gone without a word is noticed after this time; the
	 * default of a minute is long for a view that is read by people.
	 */
	set_conf(client, "socket.timeout.ms", "10000", false);
	set_conf(client, "socket.keepalive.enable", "true", false);

	/* Shorter than our patience, so that we learn where it got stuck. */
	set_conf_int(client, "socket.connection.setup.timeout.ms",
				 Max(kappa_connect_timeout / 2, 1000));
	set_conf(client, "reconnect.backoff.max.ms", "2000", false);

	/* How long a missing topic or partition may be one that is being made. */
	set_conf(client, "topic.metadata.propagation.max.ms", "1000", false);

	/*
	 * How long a broker holds an empty answer back.  It says nothing sooner of
	 * a commit marker at the end of the log either, so whoever waits for a
	 * transaction to be applied would wait for librdkafka's half second.
	 */
	set_conf(client, "fetch.wait.max.ms", "100", false);

	/*
	 * Versions from 2.5 on send metrics to brokers that ask for them, and wait
	 * for up to a second, whether one asks or not, when a consumer is closed.
	 */
	(void) rd_kafka_conf_set(client->conf, "enable.metrics.push", "false", NULL, 0);

	/*
	 * From 2.4 on, and before 2.10, librdkafka also finds metadata that it has cached
	 * by the topic's id.  When a topic is made anew, what it has cached of the old one
	 * is freed and can still be found there: from then on it frees what it learns about
	 * the topic as well, so that questions for offsets are never answered, or it crashes.
	 * What has expired is taken out as it should be, so let it expire before somebody
	 * can have made a topic anew, but not before a call that has given up waiting for
	 * it is repeated (kafka_admin.c).  It costs one question a second for each topic
	 * that a client knows.
	 */
	if (rd_kafka_version() >= 0x02040000 && rd_kafka_version() < 0x020a0000)
		set_conf(client, "metadata.max.age.ms", "500", false);

	/* A flipped bit must not become a row. */
	set_conf(client, "check.crcs", "true", false);
}

int64
kappa_kafka_buffer_bytes(void)
{
	return Max(kappa_fetch_buffer, 64) * INT64CONST(1024);
}

int64
kappa_kafka_buffer_messages(void)
{
	return kappa_kafka_buffer_bytes() / MESSAGE_OVERHEAD;
}

/*
 * Sizes of the prefetch buffer.  All partitions of a topic share one queue, so
 * the limits are the topic's.  librdkafka counts values only, hence a limit in
 * messages beside the one in bytes: tiny ones are dear.  A response is a part
 * of the buffer, so that the next one is on its way while this one is read.  A
 * single larger message comes all the same.
 */
static void
set_buffer_sizes(KafkaClient *client)
{
	int64 bytes = kappa_kafka_buffer_bytes();
	int64 response = Min(bytes / 4, MAX_RESPONSE);

	set_conf_int(client, "queued.max.messages.kbytes", Min(bytes / 1024, 2097151));
	set_conf_int(client, "queued.min.messages", Min(kappa_kafka_buffer_messages(), 10000000));
	set_conf_int(client, "message.max.bytes", Min(response, 1000000));
	set_conf_int(client, "max.partition.fetch.bytes", Min(response, MAX_PARTITION_RESPONSE));
	set_conf_int(client, "fetch.max.bytes", response);

	/* How soon it looks again if there is room; versions before 2.2 have to be told. */
	client->refetches = rd_kafka_conf_set(client->conf, "fetch.queue.backoff.ms", "10",
										  NULL, 0) == RD_KAFKA_CONF_OK;

	/*
	 * Only a guard against bytes that are no Kafka response at all (the alert
	 * of a TLS listener reads as 336 MB), so it lies below that and far above
	 * what brokers accept.
	 */
	set_conf(client, "receive.message.max.bytes", "268435456", false);
}

/* What kappa's promises rest on: set last, so that nothing overrides it. */
static void
set_invariants(KafkaClient *client)
{
	set_conf(client, "enable.auto.commit", "false", false);
	set_conf(client, "enable.auto.offset.store", "false", false);
	set_conf(client, "enable.partition.eof", "true", false);
	set_conf(client, "isolation.level", "read_committed", false);
	set_conf(client, "auto.offset.reset", "error", false);
	set_conf(client, "allow.auto.create.topics", "false", false);
	set_conf(client, "fetch.min.bytes", "1", false);
	set_conf(client, "log.queue", "true", false);
	set_buffer_sizes(client);
}

void
kappa_kafka_configure(KafkaClient *client, const KafkaConfig *config)
{
	client->conf = rd_kafka_conf_new();

	set_defaults(client);
	for (int i = 0; i < config->nproperties; i++)
		set_conf(client, config->properties[i].name,
				 config->properties[i].value, config->properties[i].secret);
	set_invariants(client);
}
