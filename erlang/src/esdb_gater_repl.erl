%%% @doc A shell for inspecting a store: `esdb_gater_repl:start().' at the Erlang prompt.
%%%
%%% It reads commands and displays the answers of the data API of {@link esdb_gater_api}. `help'
%%% lists the commands, the tab key completes commands, stores and streams, and output that is
%%% longer than the screen is displayed in pages. `quit', or the end of the input, returns to the
%%% prompt. The shell never writes to a store.
%%% @end
-module(esdb_gater_repl).

-export([start/0, start/1, graph_to_dot/1]).
%% Exported for the tests.
-export([complete/2, words/1]).

-define(API, esdb_gater_api).
-define(EVENTS, 20).                    % that `read' shows unless told otherwise
-define(COMPLETED, 200).                % streams that are offered

-type store() :: esdb_gater_api:store_id() | none.
-type shown() :: {ok, [iodata()]} | {use, store()} | {error, term()} | usage | quit.

%% @doc Starts the shell for the only store.
-spec start() -> ok.
start() ->
    case esdb_gater_request:stores() of
        [Store] -> start(Store);
        _ -> start(none)
    end.

%% @doc Starts the shell for a store.
-spec start(store()) -> ok.
start(Store) ->
    Options = io:getopts(),
    Before = case is_list(Options) of
                 true -> proplists:get_value(expand_fun, Options, none);
                 false -> none
             end,
    io:put_chars("A look at event stores. `help' lists the commands, `quit' leaves.\n"),
    try loop(Store)
    after
        is_function(Before) andalso io:setopts([{expand_fun, Before}])
    end.

loop(Store) ->
    %% Another user of the terminal may have set another function in the meantime.
    _ = io:setopts([{expand_fun, fun(Reversed) -> complete(Reversed, Store) end}]),
    case io:get_line(prompt(Store)) of
        eof -> ok;
        {error, _} -> ok;
        Line -> carry_out(words(unicode:characters_to_list(Line)), Store)
    end.

prompt(none) -> "esdb> ";
prompt(Store) -> io_lib:format("esdb ~ts> ", [Store]).

carry_out([], Store) ->
    loop(Store);
carry_out([Name | Arguments], Store) ->
    case run(Name, Arguments, Store) of
        quit -> ok;
        {use, Other} -> loop(Other);
        {ok, Lines} -> esdb_gater_repl_view:page(Lines), loop(Store);
        usage -> esdb_gater_repl_view:page([["usage: ", usage(Name)]]), loop(Store);
        {error, Reason} -> esdb_gater_repl_view:page(problem(Reason, Store)), loop(Store)
    end.

run(Name, Arguments, Store) ->
    case lists:keyfind(Name, 1, commands()) of
        {_, _, _, Run} ->
            try Run(Arguments, Store)
            catch
                throw:usage -> usage;
                error:Reason:Stack -> failed(Reason, Stack, [Arguments, Store])
            end;
        false ->
            {error, {unknown_command, Name}}
    end.

%% The arguments match no clause of the command, or a store has answered in an unexpected form.
failed(function_clause, [{?MODULE, _, Called, _} | _], Called) -> usage;
failed(Reason, _Stack, _Called) -> {error, Reason}.

usage(Name) ->
    {_, Arguments, _, _} = lists:keyfind(Name, 1, commands()),
    [Name, " ", Arguments].

problem({unknown_command, Name}, _Store) ->
    [["no command ", Name, "; `help' lists them"]];
problem(no_store, _Store) ->
    ["no store is chosen; `stores' lists them, `use STORE' chooses one"];
problem(no_workers, _Store) ->
    ["no store has a worker; is one running, and connected to the same gateway?"];
problem({retries_exhausted, no_workers}, Store) ->
    [io_lib:format("~ts has no worker; is the store running, and connected to the same gateway?",
                   [Store])];
problem({retries_exhausted, Reason}, Store) ->
    problem(Reason, Store);
problem(Reason, _Store) ->
    [io_lib:format("error: ~tp", [Reason])].

%%% The commands: name, arguments, help text, and the function of arguments and store.

-spec commands() -> [{string(), string(), string(), fun(([string()], store()) -> shown())}].
commands() ->
    [{"stores", "", "the stores that have workers", fun stores/2},
     {"use", "STORE", "the following commands are for this store", fun use/2},
     {"streams", "", "the streams of the store", fun streams/2},
     {"read", "STREAM [FROM [COUNT]]", "events of a stream", fun read/2},
     {"version", "STREAM", "the version of a stream", fun version/2},
     {"until", "STREAM TIME", "events up to a time, in ms since 1970 or as 2026-01-31T12:00:00Z",
      fun until/2},
     {"range", "STREAM TIME TIME", "events between two times", fun range/2},
     {"effects", "EVENT", "the events that an event has caused", fun effects/2},
     {"cause", "EVENT", "the event that has caused an event", fun cause/2},
     {"chain", "EVENT", "the events that led to an event", fun chain/2},
     {"graph", "EVENT", "causes and effects around an event", fun graph/2},
     {"dot", "EVENT [FILE]", "the same for Graphviz, to the screen or to a file", fun dot/2},
     {"schemas", "", "the schemas of the store", fun schemas/2},
     {"subscriptions", "", "the subscriptions of the store", fun subscriptions/2},
     {"memory", "", "how scarce memory is for the store, and what it uses", fun memory/2},
     {"health", "", "whether there is a gateway, and the workers of all stores", fun health/2},
     {"help", "", "this list", fun help/2},
     {"quit", "", "leaves", fun quit/2}].

help([], _Store) ->
    {ok, [io_lib:format("  ~-32ts ~ts", [[Name, " ", Arguments], Help])
          || {Name, Arguments, Help, _} <- commands()]}.

quit([], _Store) -> quit.

stores([], _Store) ->
    {ok, [io_lib:format("  ~ts", [Store]) || Store <- esdb_gater_request:stores()]}.

use([Name], _Store) ->
    case [Store || Store <- esdb_gater_request:stores(), atom_to_list(Store) =:= Name] of
        [Store] -> {use, Store};
        [] -> {ok, [["no store ", Name, " has a worker; `stores' lists those that have"]]}
    end.

streams([], Store) ->
    asked(Store, fun() -> ?API:get_streams(Store) end,
          fun(Streams) -> [["  ", esdb_gater_repl_view:text(Stream)] || Stream <- Streams] end).

read([Stream], Store) -> read(Stream, 0, ?EVENTS, Store);
read([Stream, From], Store) -> read(Stream, integer(From), ?EVENTS, Store);
read([Stream, From, Count], Store) -> read(Stream, integer(From), integer(Count), Store).

read(Stream, From, Count, Store) ->
    events(Store, fun() -> ?API:stream_forward(Store, name(Stream), From, Count) end).

version([Stream], Store) ->
    term(Store, fun() -> ?API:get_version(Store, name(Stream)) end).

until([Stream, Time], Store) ->
    At = time(Time),
    events(Store, fun() -> ?API:read_until(Store, name(Stream), At) end).

range([Stream, From, To], Store) ->
    {Begin, End} = {time(From), time(To)},
    events(Store, fun() -> ?API:read_range(Store, name(Stream), Begin, End) end).

effects([Id], Store) -> events(Store, fun() -> ?API:get_effects(Store, name(Id)) end).

cause([Id], Store) -> events(Store, fun() -> ?API:get_cause(Store, name(Id)) end).

chain([Id], Store) -> events(Store, fun() -> ?API:get_causation_chain(Store, name(Id)) end).

graph([Id], Store) ->
    asked(Store, fun() -> ?API:build_causation_graph(Store, name(Id)) end,
          fun esdb_gater_repl_view:graph/1).

dot([Id], Store) ->
    asked(Store, fun() -> ?API:build_causation_graph(Store, name(Id)) end,
          fun(Graph) -> string:split(graph_to_dot(Graph), "\n", all) end);
dot([Id, File], Store) ->
    asked(Store, fun() -> ?API:build_causation_graph(Store, name(Id)) end,
          fun(Graph) ->
              case file:write_file(File, graph_to_dot(Graph)) of
                  ok -> [["written to ", File]];
                  {error, Reason} -> [[File, ": ", file:format_error(Reason)]]
              end
          end).

schemas([], Store) -> terms(Store, fun() -> ?API:list_schemas(Store) end).

subscriptions([], Store) -> terms(Store, fun() -> ?API:get_subscriptions(Store) end).

memory([], Store) ->
    case term(Store, fun() -> ?API:get_memory_level(Store) end) of
        {ok, Level} ->
            case term(Store, fun() -> ?API:get_memory_stats(Store) end) of
                {ok, Stats} -> {ok, Level ++ Stats};
                {error, _} = Error -> Error
            end;
        {error, _} = Error ->
            Error
    end.

health([], _Store) ->
    {ok, Health} = ?API:health(),
    {ok, esdb_gater_repl_view:term(Health)}.

%%% Requests and their display

events(Store, Ask) -> asked(Store, Ask, fun esdb_gater_repl_view:events/1).

term(Store, Ask) -> asked(Store, Ask, fun esdb_gater_repl_view:term/1).

terms(Store, Ask) ->
    asked(Store, Ask, fun(Terms) when is_list(Terms) ->
                              lists:append([esdb_gater_repl_view:term(Term) || Term <- Terms]);
                         (Term) ->
                              esdb_gater_repl_view:term(Term)
                      end).

asked(none, _Ask, _Show) ->
    {error, no_store};
asked(_Store, Ask, Show) ->
    case Ask() of
        {ok, Answer} -> {ok, Show(Answer)};
        {error, Reason} -> {error, Reason}
    end.

name(Text) -> unicode:characters_to_binary(Text).

integer(Text) ->
    try list_to_integer(Text)
    catch error:badarg -> throw(usage)
    end.

time(Text) ->
    try list_to_integer(Text)
    catch
        error:badarg ->
            try calendar:rfc3339_to_system_time(Text, [{unit, millisecond}])
            catch error:_ -> throw(usage)
            end
    end.

%% @doc Returns a graph, as returned by {@link esdb_gater_api:build_causation_graph/2}, in the
%% language of Graphviz.
-spec graph_to_dot(map()) -> binary().
graph_to_dot(Graph) -> esdb_gater_repl_view:dot(Graph).

%% @private Returns the words of a line. A word with spaces is written in quotation marks.
-spec words(string()) -> [string()].
words(Line) ->
    case re:run(Line, "\"([^\"]*)\"|(\\S+)",
                [global, unicode, {capture, all_but_first, list}]) of
        {match, Found} -> [lists:append(Word) || Word <- Found];
        nomatch -> []
    end.

%% @private Returns the completions of a line that is being typed, as `expand_fun' of `io:setopts/1'
%% requires: commands first, then stores or streams.
-spec complete(Reversed :: string(), store()) -> {yes | no, string(), [string()]}.
complete(Reversed, Store) ->
    Line = lists:reverse(Reversed),
    case string:split(string:trim(Line, leading), " ") of
        [Begun] -> among(Begun, [Name ++ " " || {Name, _, _, _} <- commands()]);
        ["use", Begun] -> among(Begun, [atom_to_list(S) || S <- esdb_gater_request:stores()]);
        [Command, Begun] -> among(Begun, arguments(Command, Store))
    end.

arguments(_Command, none) ->
    [];
arguments(Command, Store) ->
    case lists:keyfind(Command, 1, commands()) of
        {_, "STREAM" ++ _, _, _} ->
            case ?API:get_streams(Store) of
                {ok, Streams} when is_list(Streams) ->
                    [unicode:characters_to_list(S) || S <- lists:sublist(Streams, ?COMPLETED),
                                                      is_binary(S)];
                _ ->
                    []
            end;
        _ ->
            []
    end.

among(Begun, All) ->
    case [Word || Word <- All, lists:prefix(Begun, Word)] of
        [] -> {no, "", []};
        [Word] -> {yes, lists:nthtail(length(Begun), Word), []};
        [First | Rest] = Words ->
            Common = lists:foldl(fun common/2, First, Rest),
            {yes, lists:nthtail(length(Begun), Common), Words}
    end.

common([C | A], [C | B]) -> [C | common(A, B)];
common(_, _) -> [].
