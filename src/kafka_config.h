/*-------------------------------------------------------------------------
 *
 * kafka_config.h
 *	  Ask librdkafka whether it would take a configuration property
 *
 * IDENTIFICATION
 *	  src/kafka_config.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_KAFKA_CONFIG_H
#define KAPPA_KAFKA_CONFIG_H

#include "c.h"

typedef enum KafkaPropertyCheck
{
	KAFKA_PROPERTY_OK,
	KAFKA_PROPERTY_UNKNOWN, /* the librdkafka in use does not have it */
	KAFKA_PROPERTY_INVALID, /* it has it, and refuses the value */
} KafkaPropertyCheck;

/*
 * Try a property, by librdkafka's own name, on a throwaway configuration.
 * Where the answer is not OK librdkafka's sentence is in reason; it may
 * contain the value, so do not show it for secrets.  Does not throw, except
 * when out of memory.
 */
extern KafkaPropertyCheck kappa_kafka_check_property(const char *name,
													 const char *value,
													 char *reason,
													 Size reason_size);

#endif /* KAPPA_KAFKA_CONFIG_H */
