/*-------------------------------------------------------------------------
 *
 * aggregate_state.h
 *	  The type kappa.state: the serialized state of an aggregate
 *
 * IDENTIFICATION
 *	  src/aggregate_state.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_AGGREGATE_STATE_H
#define KAPPA_AGGREGATE_STATE_H

/*
 * Who may read a state.  A serialize function gives bytes that only its own
 * deserialize function understands; feeding it others may crash the server.
 */
typedef struct KappaStateHeader
{
	uint32 function; /* hash of the serialize function's name */
	uint32 types;    /* hash of the types of the arguments; 0 unless polymorphic */
	uint16 version;  /* major version of PostgreSQL */
} KappaStateHeader;

/* OID of the type kappa.state. */
extern Oid kappa_state_type(void);

/* Hash of a name that must be the same in the cluster to which a dump goes; never 0. */
extern uint32 kappa_state_hash(const char *name);

/* A kappa.state of the bytes that a serialize function gave. */
extern Datum kappa_state_pack(const KappaStateHeader *header, const bytea *bytes);

/* Header and bytes of a kappa.state; the bytes are a copy. */
extern bytea *kappa_state_unpack(Datum state, KappaStateHeader *header);

#endif /* KAPPA_AGGREGATE_STATE_H */
