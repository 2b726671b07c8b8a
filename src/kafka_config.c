/*-------------------------------------------------------------------------
 *
 * kafka_config.c
 *	  Ask librdkafka whether it would take a configuration property
 *
 * IDENTIFICATION
 *	  src/kafka_config.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>
#include <librdkafka/rdkafka.h>

#include "kafka_config.h"

KafkaPropertyCheck
kappa_kafka_check_property(const char *name, const char *value,
						   char *reason, Size reason_size)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_conf_res_t result;

	if (conf == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));

	reason[0] = '\0';
	result = rd_kafka_conf_set(conf, name, value, reason, reason_size);
	rd_kafka_conf_destroy(conf);

	/* Some of its sentences end in a newline. */
	while (reason[0] != '\0' && isspace((unsigned char) reason[strlen(reason) - 1]))
		reason[strlen(reason) - 1] = '\0';

	switch (result)
	{
		case RD_KAFKA_CONF_OK:
			return KAFKA_PROPERTY_OK;
		case RD_KAFKA_CONF_UNKNOWN:
			return KAFKA_PROPERTY_UNKNOWN;
		case RD_KAFKA_CONF_INVALID:
			break;
	}
	return KAFKA_PROPERTY_INVALID;
}
