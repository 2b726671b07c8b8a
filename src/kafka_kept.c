/*-------------------------------------------------------------------------
 *
 * kafka_kept.c
 *	  A consumer that a process keeps from one use to the next
 *
 * To connect takes many round trips: to a bootstrap server, and to the brokers
 * that it tells of, each with a handshake and a login where the brokers ask for
 * that.  Who reads one stretch of the log after the other does it once.
 *
 * IDENTIFICATION
 *	  src/kafka_kept.c
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "kafka_kept.h"
#include "utils/memutils.h"

typedef struct KeptClient
{
	MemoryContext context; /* holds all of it; NULL: there is none */
	KafkaConfig config;
	bool with_headers;
	bool in_use;
	KafkaClient *client; /* NULL if it could not be opened */
} KeptClient;

static bool keeping = false;
static KeptClient kept;

void
kappa_kafka_keep(void)
{
	keeping = true;
}

static void
close_kept(void)
{
	if (kept.context != NULL)
		MemoryContextDelete(kept.context);
	memset(&kept, 0, sizeof(kept));
}

static void
copy_config(KafkaConfig *copy, const KafkaConfig *config)
{
	copy->nproperties = config->nproperties;
	copy->properties = palloc(config->nproperties * sizeof(KafkaProperty));
	for (int i = 0; i < config->nproperties; i++)
	{
		copy->properties[i] = config->properties[i];
		copy->properties[i].name = pstrdup(config->properties[i].name);
		copy->properties[i].value = pstrdup(config->properties[i].value);
	}
}

static void
open_kept(const KafkaConfig *config, bool with_headers)
{
	MemoryContext old;

	kept.context = AllocSetContextCreate(TopMemoryContext, "kappa kept consumer",
										 ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(kept.context);
	copy_config(&kept.config, config);
	kept.with_headers = with_headers;
	kept.client = kappa_kafka_open(config, with_headers);
	MemoryContextSwitchTo(old);
}

KafkaClient *
kappa_kafka_borrow(const KafkaConfig *config, bool with_headers)
{
	if (!keeping || kept.in_use)
		return kappa_kafka_open(config, with_headers);

	if (kept.client == NULL || kept.with_headers != with_headers ||
		!kappa_kafka_same_config(&kept.config, config))
	{
		close_kept();
		open_kept(config, with_headers);
	}
	kept.in_use = true;
	return kept.client;
}

bool
kappa_kafka_give_back(const KafkaClient *client, bool sound)
{
	if (client != kept.client)
		return false;
	kept.in_use = false;
	if (!sound)
		close_kept();
	return true;
}
