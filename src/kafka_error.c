/*-------------------------------------------------------------------------
 *
 * kafka_error.c
 *	  From librdkafka's error codes to SQLSTATE, hint and what to do next
 *
 * Retrying is right for everything that an operator of the brokers can heal
 * without touching the view: a broker that is down, a password that is about
 * to be changed back, a missing grant.  Giving up is right where the log and
 * the stored position no longer fit, or where the same bytes would fail again.
 *
 * IDENTIFICATION
 *	  src/kafka_error.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <librdkafka/rdkafka.h>

#include "kafka_error.h"

static const char hint_authentication[] =
	"Check the user name and password in the user mapping, and the options security_protocol and sasl_mechanism of the server.";
static const char hint_tls[] =
	"Check the server's option security_protocol and its ssl_* options.";
static const char hint_resolve[] =
	"Check the server's option bootstrap_servers, and that the brokers' advertised listeners can be resolved from here.";
static const char hint_topic[] =
	"Check the topic's name and that it exists.  kappa never creates topics.";
static const char hint_grant[] =
	"Grant the Kafka user of the user mapping the operations Read and Describe on the topic.";
static const char hint_offset[] =
	"The log does not have this offset any more, or not yet.  Rebuild the view with kappa.rebuild(), or move its offset with kappa.seek_view().";
static const char hint_skip[] =
	"If the message cannot be mended, move past it with kappa.seek_view().";

/* Codes that mean the same to us stand together; order has no meaning. */
static const KafkaErrorClass error_classes[] = {
	/* nobody answers */
	{ RD_KAFKA_RESP_ERR__TRANSPORT, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR__TIMED_OUT, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR__RESOLVE,
	  ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, KAFKA_RETRY, hint_resolve },
	{ RD_KAFKA_RESP_ERR__SSL,
	  ERRCODE_SQLCLIENT_UNABLE_TO_ESTABLISH_SQLCONNECTION, KAFKA_RETRY, hint_tls },

	/* the cluster is moving things around */
	{ RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE,
	  ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE, ERRCODE_CONNECTION_FAILURE, KAFKA_RETRY, NULL },
	{ RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, ERRCODE_IO_ERROR, KAFKA_RETRY, NULL },

	/* who we are, and what we may */
	{ RD_KAFKA_RESP_ERR__AUTHENTICATION,
	  ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, KAFKA_RETRY, hint_authentication },
	{ RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED,
	  ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, KAFKA_RETRY, hint_authentication },
	{ RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM,
	  ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, KAFKA_RETRY, hint_authentication },
	{ RD_KAFKA_RESP_ERR_ILLEGAL_SASL_STATE,
	  ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION, KAFKA_RETRY, hint_authentication },
	{ RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
	  ERRCODE_INSUFFICIENT_PRIVILEGE, KAFKA_RETRY, hint_grant },
	{ RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED,
	  ERRCODE_INSUFFICIENT_PRIVILEGE, KAFKA_RETRY, hint_grant },

	/* the topic is not what it was */
	{ RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
	  ERRCODE_UNDEFINED_OBJECT, KAFKA_GIVE_UP, hint_topic },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC, ERRCODE_UNDEFINED_OBJECT, KAFKA_GIVE_UP, hint_topic },
	{ RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION, ERRCODE_UNDEFINED_OBJECT, KAFKA_GIVE_UP, "A topic never loses partitions.  If it was deleted and made again, rebuild the view with kappa.rebuild()." },
	{ RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION, ERRCODE_INVALID_NAME, KAFKA_GIVE_UP, hint_topic },
	{ RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE, ERRCODE_NO_DATA_FOUND, KAFKA_GIVE_UP, hint_offset },
	{ RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET, ERRCODE_NO_DATA_FOUND, KAFKA_GIVE_UP, hint_offset },

	/* the bytes would fail again */
	{ RD_KAFKA_RESP_ERR__BAD_MSG, ERRCODE_DATA_CORRUPTED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR_INVALID_MSG, ERRCODE_DATA_CORRUPTED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR__BAD_COMPRESSION, ERRCODE_DATA_CORRUPTED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR_UNSUPPORTED_COMPRESSION_TYPE,
	  ERRCODE_FEATURE_NOT_SUPPORTED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR__NOT_IMPLEMENTED, ERRCODE_FEATURE_NOT_SUPPORTED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE,
	  ERRCODE_PROGRAM_LIMIT_EXCEEDED, KAFKA_GIVE_UP, hint_skip },
	{ RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE,
	  ERRCODE_PROGRAM_LIMIT_EXCEEDED, KAFKA_GIVE_UP, hint_skip },

	/* this broker and this client do not fit */
	{ RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE, ERRCODE_FEATURE_NOT_SUPPORTED, KAFKA_GIVE_UP, NULL },
	{ RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION, ERRCODE_FEATURE_NOT_SUPPORTED, KAFKA_GIVE_UP, NULL },
	{ RD_KAFKA_RESP_ERR__INVALID_ARG, ERRCODE_INVALID_PARAMETER_VALUE, KAFKA_GIVE_UP, NULL },
};

static const KafkaErrorClass other_class = {
	RD_KAFKA_RESP_ERR_UNKNOWN, ERRCODE_CONNECTION_EXCEPTION, KAFKA_RETRY, NULL
};

const KafkaErrorClass *
kappa_kafka_error_class(int code)
{
	for (int i = 0; i < lengthof(error_classes); i++)
	{
		if (error_classes[i].code == code)
			return &error_classes[i];
	}

	return &other_class;
}

const char *
kappa_kafka_error_name(int code)
{
	return rd_kafka_err2name((rd_kafka_resp_err_t) code);
}

const char *
kappa_kafka_error_text(int code)
{
	return rd_kafka_err2str((rd_kafka_resp_err_t) code);
}

/*
 * With auto.offset.reset=error librdkafka turns the broker's answer into a
 * code of its own, so that is the one that arrives in practice.
 */
bool
kappa_kafka_error_is_out_of_range(int code)
{
	return code == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE ||
		   code == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET;
}
