%%% @private
%%% @doc A registry that comes in parts.
%%%
%%% A gateway sends the registry in as many messages as it takes. Changes of what it has sent come in
%%% between, and count when all of it has come: each changes what an earlier part says.
%%% @end
-module(esdb_gater_parts).

-export([new/0, add/2, change/4, whole/2]).

-export_type([parts/0, registry/0, change/0]).

-type registry() :: [{StoreId :: atom(), [pid()]}].
-type change() :: {added | removed, StoreId :: atom(), pid()}.

-opaque parts() :: {Latest :: [registry()], Changes :: [change()]}.

%% @doc Returns the state before the first part has come.
-spec new() -> parts().
new() -> {[], []}.

%% @doc A part has come. A store may be in several.
-spec add(registry(), parts()) -> parts().
add(Registry, {Parts, Changes}) -> {[Registry | Parts], Changes}.

%% @doc A worker has come or gone meanwhile.
-spec change(added | removed, StoreId :: atom(), pid(), parts()) -> parts().
change(Change, Store, Pid, {Parts, Changes}) -> {Parts, [{Change, Store, Pid} | Changes]}.

%% @doc The last part has come: returns the registry, each store once and with its workers in order,
%% and the changes to make to it, in order.
-spec whole(registry(), parts()) -> {registry(), [change()]}.
whole(Last, {[], Changes}) ->
    {Last, lists:reverse(Changes)};
whole(Last, {Parts, Changes}) ->
    %% From the last to the first, so that no list is copied.
    Merged = lists:foldl(fun(Part, Stores) -> lists:foldr(fun merge/2, Stores, Part) end,
                         #{}, [Last | Parts]),
    {maps:to_list(Merged), lists:reverse(Changes)}.

merge({Store, Pids}, Stores) ->
    Stores#{Store => Pids ++ maps:get(Store, Stores, [])}.
