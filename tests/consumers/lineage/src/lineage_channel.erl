%% @doc A channel of the program's own.
-module(lineage_channel).

-behaviour(esdb_channel).

-export([init/1, handle_publish/3, handle_subscribe/3, handle_unsubscribe/3, handle_message/2,
         terminate/2, priority/0, max_rate/0, requires_signature/0]).

-type state() :: non_neg_integer().

-spec init(map()) -> {ok, state()}.
init(_Options) -> {ok, 0}.

-spec handle_publish(binary(), term(), state()) -> {ok, state()} | {error, not_a_map}.
handle_publish(_Topic, Message, N) when is_map(Message) -> {ok, N + 1};
handle_publish(_Topic, _Message, _N) -> {error, not_a_map}.

-spec handle_subscribe(binary(), pid(), state()) -> {ok, state()} | {error, closed}.
handle_subscribe(<<"closed">>, _Pid, _N) -> {error, closed};
handle_subscribe(_Topic, _Pid, N) -> {ok, N}.

-spec handle_unsubscribe(binary(), pid(), state()) -> {ok, state()}.
handle_unsubscribe(_Topic, _Pid, N) -> {ok, N}.

-spec handle_message(term(), state()) -> {ok, state()}.
handle_message(_Message, N) -> {ok, N}.

-spec terminate(term(), state()) -> ok.
terminate(_Reason, _N) -> ok.

-spec priority() -> normal.
priority() -> normal.

-spec max_rate() -> infinity.
max_rate() -> infinity.

-spec requires_signature() -> false.
requires_signature() -> false.
