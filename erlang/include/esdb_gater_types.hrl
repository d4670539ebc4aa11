%%% Records and types of event stores, as their workers and clients exchange them. The order of
%%% the fields is part of the protocol: stores and clients on other nodes match on these tuples.
-ifndef(ESDB_GATER_TYPES_HRL).
-define(ESDB_GATER_TYPES_HRL, true).

%% Expected versions of an append: the stream must not exist, may be at any version, must exist.
-define(NO_STREAM, -1).
-define(ANY_VERSION, -2).
-define(STREAM_EXISTS, -4).

-define(CONTENT_TYPE_JSON, <<"application/json">>).
-define(CONTENT_TYPE_BINARY, <<"application/octet-stream">>).

%% An event as a store returns it.
-record(event, {
    event_id :: binary() | undefined,
    event_type :: binary() | undefined,
    stream_id :: binary() | undefined,
    %% Position in the stream; the first event has 0.
    version :: integer() | undefined,
    data :: term(),
    metadata :: map() | undefined,
    tags :: [binary()] | undefined,
    timestamp :: integer() | undefined,
    %% Microseconds since 1970.
    epoch_us :: integer() | undefined,
    data_content_type = ?CONTENT_TYPE_JSON :: binary(),
    metadata_content_type = ?CONTENT_TYPE_JSON :: binary()
}).

%% A subscription that a store keeps.
-record(subscription, {
    id :: binary() | undefined,
    type :: subscription_type() | undefined,
    %% What the type selects by: a stream, an event type, a pattern, tags.
    selector :: term(),
    subscription_name :: binary() | undefined,
    subscriber_pid :: pid() | undefined,
    created_at :: integer() | undefined,
    %% Processes that share the events.
    pool_size = 1 :: pos_integer(),
    %% The last position that was acknowledged.
    checkpoint :: integer() | undefined,
    options :: map() | undefined
}).

%% The state of something at a version of its stream.
-record(snapshot, {
    stream_id :: binary() | undefined,
    version :: integer() | undefined,
    data :: term(),
    metadata :: map() | undefined,
    timestamp :: integer() | undefined
}).

%% What a store may answer to an append: the new version, and how many events came.
-record(append_result, {
    version :: integer() | undefined,
    position :: integer() | undefined,
    count :: non_neg_integer() | undefined
}).

-type event() :: #event{}.
-type subscription() :: #subscription{}.
-type snapshot() :: #snapshot{}.
-type append_result() :: #append_result{}.

%% Both spellings are in use.
-type subscription_type() :: stream | event_type | event_pattern | event_payload | tags
                           | by_stream | by_event_type | by_event_pattern | by_event_payload
                           | by_tags.
-type tag_match() :: any | all.
-type read_direction() :: forward | backward.

-type append_error() :: {wrong_expected_version, Actual :: integer()}
                      | {wrong_expected_version, Expected :: integer(), Actual :: integer()}
                      | {stream_not_found, binary()}
                      | {invalid_stream_id, binary(), term()}
                      | no_workers | timeout | term().
-type read_error() :: {stream_not_found, binary()} | not_found | no_workers | timeout | term().

-endif.
