/*-------------------------------------------------------------------------
 *
 * guard.h
 *	  What people may do to the tables of views
 *
 * IDENTIFICATION
 *	  src/guard.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_GUARD_H
#define KAPPA_GUARD_H

/* Name of the trigger that every view's table has. */
#define KAPPA_GUARD_TRIGGER "kappa_guard"

/* Install the utility hook and the object access hook; from _PG_init. */
extern void kappa_guard_init(void);

/*
 * Let statements of this process write to one view's table, until the end of
 * the transaction or another call (InvalidOid: none).
 */
extern void kappa_guard_permit(Oid relid);

/*
 * Let this process run DDL on views' tables that the utility hook refuses to
 * others; likewise until the end of the transaction or a call with false.
 */
extern void kappa_guard_permit_ddl(bool permit);

#endif /* KAPPA_GUARD_H */
