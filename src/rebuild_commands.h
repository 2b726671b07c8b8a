/*-------------------------------------------------------------------------
 *
 * rebuild_commands.h
 *	  SQL functions that begin, end and wait for rebuilds
 *
 * IDENTIFICATION
 *	  src/rebuild_commands.h
 *
 *-------------------------------------------------------------------------
 */
#ifndef KAPPA_REBUILD_COMMANDS_H
#define KAPPA_REBUILD_COMMANDS_H

#include "storage/lock.h"

/*
 * The lock that backends hold in share mode while they are in
 * kappa.wait_for_rebuild() for a view.  Their snapshots must not be waited
 * for, or both would wait for ever.
 */
extern void kappa_rebuild_waiters_tag(Oid view, LOCKTAG *tag);

#endif /* KAPPA_REBUILD_COMMANDS_H */
