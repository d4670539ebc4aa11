%%% @private
%%% @doc Registrations that were withdrawn while there was no gateway.
%%%
%%% They end at once for this node, and the next gateway is told before anything else. The link
%%% writes the table, which belongs to {@link esdb_gater_tables} and therefore outlives the link.
%%% @end
-module(esdb_gater_withdrawals).

-export([tables/0, add/2, remove/2, member/2, all/0]).

-define(TABLE, esdb_gater_withdrawals).
-define(MOST, 100000).

%% @doc Returns the tables to create, as arguments of `ets:new/2'.
-spec tables() -> [{atom(), [term()]}].
tables() ->
    [{?TABLE, [ordered_set, public, named_table]}].

%% @doc Adds a withdrawn registration. Returns an error if the table is full.
-spec add(StoreId :: atom(), pid()) -> ok | {error, overloaded}.
add(Store, Pid) ->
    case ets:info(?TABLE, size) < ?MOST orelse member(Store, Pid) of
        true -> true = ets:insert(?TABLE, {{Store, Pid}}), ok;
        false -> {error, overloaded}
    end.

%% @doc Removes a registration, because a gateway was told or because it was made again.
-spec remove(StoreId :: atom(), pid()) -> ok.
remove(Store, Pid) ->
    true = ets:delete(?TABLE, {Store, Pid}),
    ok.

%% @doc Returns whether a gateway still has to be told of the withdrawal.
-spec member(StoreId :: atom(), pid()) -> boolean().
member(Store, Pid) ->
    ets:member(?TABLE, {Store, Pid}).

%% @doc Returns all withdrawn registrations of which a gateway still has to be told.
-spec all() -> [{StoreId :: atom(), pid()}].
all() ->
    [Pair || {Pair} <- ets:tab2list(?TABLE)].
