%%% Records shared with applications that use esdb-gater.
-ifndef(ESDB_GATER_HRL).
-define(ESDB_GATER_HRL, true).

-include("esdb_gater_types.hrl").

%% The name under which the original's Ra cluster ran. Kept for programs that refer to it.
-define(GATER_RA_CLUSTER, esdb_gater_registry).
%% Milliseconds that a worker has for a request.
-ifndef(DEFAULT_TIMEOUT).
-define(DEFAULT_TIMEOUT, 5000).
-endif.
%% Milliseconds that a call of the registry may take.
-define(REGISTRY_TIMEOUT, 10000).

%% How a failed operation is retried. Make one with esdb_gater_retry:new_config/1,3,
%% which checks the values; the defaults here are those of an unconfigured system.
-record(retry_config, {
    %% Milliseconds before the first retry; doubles with each further one.
    base_delay_ms = 100 :: non_neg_integer(),
    %% No delay is longer than this, in milliseconds.
    max_delay_ms = 5000 :: non_neg_integer(),
    %% Retries after the first call: calls in all = max_retries + 1.
    max_retries = 4 :: non_neg_integer(),
    %% `return' gives back a failure whose request may have been carried out
    %% (a timeout, a worker or node lost during the call) instead of repeating it.
    ambiguous = retry :: retry | return,
    %% No retry is begun later than this many milliseconds after the first call.
    deadline_ms = infinity :: pos_integer() | infinity,
    %% `local' takes workers of the calling node while there are any.
    prefer = any :: any | local
}).

%% A worker as `esdb_gater_worker_registry:get_workers/1' lists it.
-record(worker_entry, {
    store_id :: atom(),
    node :: node(),
    pid :: pid(),
    %% Unix time in milliseconds at which the node that asks learned of it.
    registered_at :: integer()
}).

-record(gater_config, {
    store_id :: atom() | undefined,
    retry_config :: #retry_config{} | undefined,
    pool_size :: pos_integer() | undefined
}).

-endif.
