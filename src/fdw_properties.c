/*-------------------------------------------------------------------------
 *
 * fdw_properties.c
 *	  The list of options, and who may set which where
 *
 * This is an allow-list: a property of librdkafka that is not here cannot be
 * set, so that a new release of librdkafka cannot bring a new way to read
 * files or load code into the server before somebody has looked at it.  The
 * refused ones are listed all the same, to say why.
 *
 * IDENTIFICATION
 *	  src/fdw_properties.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fdw_properties.h"
#include "utils/varlena.h"

#define OWN(name, places) \
	{ \
		name, KAPPA_PROPERTY_OWN, places, NULL \
	}
#define CONNECTION(name) \
	{ \
		name, KAPPA_PROPERTY_CONNECTION, KAPPA_ON_SERVER, NULL \
	}
#define SECRET(name) \
	{ \
		name, KAPPA_PROPERTY_SECRET, KAPPA_ON_MAPPING, NULL \
	}
#define IDENTITY(name) \
	{ \
		name, KAPPA_PROPERTY_IDENTITY, KAPPA_ON_SERVER | KAPPA_ON_MAPPING, NULL \
	}
#define CODE(name) \
	{ \
		name, KAPPA_PROPERTY_CODE, 0, NULL \
	}
#define MANAGED(name, hint) \
	{ \
		name, KAPPA_PROPERTY_MANAGED, 0, hint \
	}
#define PRODUCER(name) \
	{ \
		name, KAPPA_PROPERTY_PRODUCER, 0, NULL \
	}

#define NO_GROUP "kappa reads partitions without a consumer group."
#define NO_COMMIT "kappa keeps offsets in the database, not in Kafka."
#define NO_LOG "kappa writes librdkafka's messages to the server log by itself."
#define BUFFER "Use the configuration parameter \"kappa.fetch_buffer\"."

static const KappaProperty properties[] = {
	/* kappa's own */
	OWN("topic", KAPPA_ON_TABLE),
	OWN("format", KAPPA_ON_TABLE),
	OWN("key_format", KAPPA_ON_TABLE),
	OWN("key_order", KAPPA_ON_TABLE),
	OWN("path", KAPPA_ON_COLUMN),
	OWN("metadata", KAPPA_ON_COLUMN),
	OWN("key", KAPPA_ON_COLUMN),

	/* where the brokers are, and how to talk to them */
	CONNECTION("api_version_fallback_ms"),
	CONNECTION("api_version_request"),
	CONNECTION("api_version_request_timeout_ms"),
	CONNECTION("bootstrap_servers"),
	CONNECTION("broker_address_family"),
	CONNECTION("broker_address_ttl"),
	CONNECTION("broker_version_fallback"),
	CONNECTION("check_crcs"),
	CONNECTION("client_dns_lookup"),
	CONNECTION("client_id"),
	CONNECTION("client_rack"),
	CONNECTION("connections_max_idle_ms"),
	CONNECTION("enable_sasl_oauthbearer_unsecure_jwt"),
	CONNECTION("enable_ssl_certificate_verification"),
	CONNECTION("fetch_error_backoff_ms"),
	CONNECTION("fetch_wait_max_ms"),
	CONNECTION("max_in_flight"),
	CONNECTION("max_in_flight_requests_per_connection"),
	CONNECTION("metadata_max_age_ms"),
	CONNECTION("reconnect_backoff_max_ms"),
	CONNECTION("reconnect_backoff_ms"),
	CONNECTION("retry_backoff_max_ms"),
	CONNECTION("sasl_mechanism"),
	CONNECTION("sasl_mechanisms"),
	CONNECTION("sasl_oauthbearer_method"),
	CONNECTION("sasl_oauthbearer_token_endpoint_url"),
	CONNECTION("security_protocol"),
	CONNECTION("socket_connection_setup_timeout_ms"),
	CONNECTION("socket_keepalive_enable"),
	CONNECTION("socket_max_fails"),
	CONNECTION("socket_nagle_disable"),
	CONNECTION("socket_receive_buffer_bytes"),
	CONNECTION("socket_send_buffer_bytes"),
	CONNECTION("socket_timeout_ms"),
	CONNECTION("ssl_ca_pem"),
	CONNECTION("ssl_cipher_suites"),
	CONNECTION("ssl_curves_list"),
	CONNECTION("ssl_endpoint_identification_algorithm"),
	CONNECTION("ssl_sigalgs_list"),
	CONNECTION("topic_metadata_propagation_max_ms"),
	CONNECTION("topic_metadata_refresh_fast_interval_ms"),
	CONNECTION("topic_metadata_refresh_interval_ms"),
	CONNECTION("topic_metadata_refresh_sparse"),

	/* who one is */
	SECRET("sasl_oauthbearer_client_id"),
	SECRET("sasl_oauthbearer_client_secret"),
	SECRET("sasl_oauthbearer_config"),
	SECRET("sasl_oauthbearer_extensions"),
	SECRET("sasl_oauthbearer_scope"),
	SECRET("sasl_password"),
	SECRET("sasl_username"),
	SECRET("ssl_certificate_pem"),
	SECRET("ssl_key_password"),
	SECRET("ssl_key_pem"),
	SECRET("ssl_keystore_password"),

	/* files of the server, and tickets of the user that runs it */
	IDENTITY("https_ca_location"),
	IDENTITY("sasl_kerberos_keytab"),
	IDENTITY("sasl_kerberos_min_time_before_relogin"),
	IDENTITY("sasl_kerberos_principal"),
	IDENTITY("sasl_kerberos_service_name"),
	IDENTITY("ssl_ca_location"),
	IDENTITY("ssl_certificate_location"),
	IDENTITY("ssl_crl_location"),
	IDENTITY("ssl_key_location"),
	IDENTITY("ssl_keystore_location"),

	/* what would run in the server, or beside it */
	CODE("interceptors"),
	CODE("plugin_library_paths"),
	CODE("sasl_kerberos_kinit_cmd"),
	CODE("ssl_engine_callback_data"),
	CODE("ssl_engine_id"),
	CODE("ssl_engine_location"),
	CODE("ssl_providers"),

	/* what kappa's guarantees rest on */
	MANAGED("allow_auto_create_topics", "kappa never creates topics."),
	MANAGED("auto_commit_enable", NO_COMMIT),
	MANAGED("auto_commit_interval_ms", NO_COMMIT),
	MANAGED("auto_offset_reset", "Where a view starts is the argument \"start\" of kappa.create_view()."),
	MANAGED("builtin_features", NULL),
	MANAGED("consume_callback_max_messages", NULL),
	MANAGED("coordinator_query_interval_ms", NO_GROUP),
	MANAGED("debug", NO_LOG),
	MANAGED("enable_auto_commit", NO_COMMIT),
	MANAGED("enable_auto_offset_store", NO_COMMIT),
	MANAGED("enable_partition_eof", NULL),
	MANAGED("enable_random_seed", NULL),
	MANAGED("enabled_events", NULL),
	MANAGED("fetch_max_bytes", BUFFER),
	MANAGED("fetch_message_max_bytes", BUFFER),
	MANAGED("fetch_min_bytes", NULL),
	MANAGED("fetch_queue_backoff_ms", BUFFER),
	MANAGED("group_id", NO_GROUP),
	MANAGED("group_instance_id", NO_GROUP),
	MANAGED("group_protocol", NO_GROUP),
	MANAGED("group_protocol_type", NO_GROUP),
	MANAGED("group_remote_assignor", NO_GROUP),
	MANAGED("heartbeat_interval_ms", NO_GROUP),
	MANAGED("internal_termination_signal", NULL),
	MANAGED("isolation_level", "kappa reads committed messages only."),
	MANAGED("log_connection_close", NO_LOG),
	MANAGED("log_level", NO_LOG),
	MANAGED("log_queue", NO_LOG),
	MANAGED("log_thread_name", NO_LOG),
	MANAGED("max_partition_fetch_bytes", BUFFER),
	MANAGED("max_poll_interval_ms", NO_GROUP),
	MANAGED("metadata_broker_list", "Use \"bootstrap_servers\"."),
	MANAGED("offset_store_method", NO_COMMIT),
	MANAGED("offset_store_path", NO_COMMIT),
	MANAGED("offset_store_sync_interval_ms", NO_COMMIT),
	MANAGED("partition_assignment_strategy", NO_GROUP),
	MANAGED("queued_max_messages_kbytes", BUFFER),
	MANAGED("queued_min_messages", BUFFER),
	MANAGED("receive_message_max_bytes", NULL),
	MANAGED("session_timeout_ms", NO_GROUP),
	MANAGED("statistics_interval_ms", NULL),
	MANAGED("topic_blacklist", NULL),

	/* what only a producer uses */
	PRODUCER("acks"),
	PRODUCER("batch_num_messages"),
	PRODUCER("batch_size"),
	PRODUCER("compression_codec"),
	PRODUCER("compression_level"),
	PRODUCER("compression_type"),
	PRODUCER("delivery_report_only_error"),
	PRODUCER("delivery_timeout_ms"),
	PRODUCER("enable_gapless_guarantee"),
	PRODUCER("enable_idempotence"),
	PRODUCER("linger_ms"),
	PRODUCER("message_copy_max_bytes"),
	PRODUCER("message_max_bytes"),
	PRODUCER("message_send_max_retries"),
	PRODUCER("message_timeout_ms"),
	PRODUCER("partitioner"),
	PRODUCER("produce_offset_report"),
	PRODUCER("queue_buffering_backpressure_threshold"),
	PRODUCER("queue_buffering_max_kbytes"),
	PRODUCER("queue_buffering_max_messages"),
	PRODUCER("queue_buffering_max_ms"),
	PRODUCER("queuing_strategy"),
	PRODUCER("request_required_acks"),
	PRODUCER("request_timeout_ms"),
	PRODUCER("retries"),
	PRODUCER("retry_backoff_ms"),
	PRODUCER("sticky_partitioning_linger_ms"),
	PRODUCER("transaction_timeout_ms"),
	PRODUCER("transactional_id"),
};

const KappaProperty *
kappa_properties_find(const char *option)
{
	for (int i = 0; i < lengthof(properties); i++)
	{
		if (strcmp(properties[i].option, option) == 0)
			return &properties[i];
	}
	return NULL;
}

const char *
kappa_properties_closest(const char *option, int place)
{
	const char *closest = NULL;
	int length = strlen(option);
	int limit = Min(4, length / 2);

	/* Nobody mistypes this much, and the distance takes quadratic time. */
	if (length > NAMEDATALEN)
		return NULL;

	for (int i = 0; i < lengthof(properties); i++)
	{
		const char *candidate = properties[i].option;
		int distance;

		if ((properties[i].places & place) == 0)
			continue;
		distance = varstr_levenshtein_less_equal(option, length,
												 candidate, strlen(candidate),
												 1, 1, 1, limit, true);
		if (distance <= limit)
		{
			closest = candidate;
			limit = distance - 1;
		}
		if (limit < 0)
			break;
	}
	return closest;
}

char *
kappa_properties_librdkafka_name(const char *option)
{
	char *name = pstrdup(option);

	for (char *p = name; *p; p++)
	{
		if (*p == '_')
			*p = '.';
	}
	return name;
}
