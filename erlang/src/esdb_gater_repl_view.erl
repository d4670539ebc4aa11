%%% @private
%%% @doc Displays events, graphs and terms in pages for {@link esdb_gater_repl}.
-module(esdb_gater_repl_view).

-include("../include/esdb_gater.hrl").

-export([page/1, events/1, graph/1, dot/1, term/1, text/1]).

-define(SHORT, 16).                     % characters of an id in a graph

%% @doc Prints lines. If they do not fit on a terminal, it asks after each page.
-spec page([iodata()]) -> ok.
page(Lines) ->
    case io:rows() of
        {ok, Rows} when Rows > 2 -> page(Lines, Rows - 1);
        _ -> put_lines(Lines)
    end.

page(Lines, Rows) when length(Lines) =< Rows ->
    put_lines(Lines);
page(Lines, Rows) ->
    {Now, Later} = lists:split(Rows - 1, Lines),
    ok = put_lines(Now),
    Prompt = io_lib:format("-- ~b more lines, q ends --", [length(Later)]),
    case io:get_line(Prompt) of
        "q" ++ _ -> ok;
        Line when is_list(Line) -> page(Later, Rows);
        Line when is_binary(Line) -> page_on(Line, Later, Rows);
        _ -> ok
    end.

page_on(<<"q", _/binary>>, _Later, _Rows) -> ok;
page_on(_Line, Later, Rows) -> page(Later, Rows).

put_lines(Lines) ->
    io:put_chars([[Line, $\n] || Line <- Lines]).

%% @doc Returns a line for each event, or for a single one.
-spec events(term()) -> [iodata()].
events([]) -> ["no events"];
events(Events) when is_list(Events) -> [event(Event) || Event <- Events];
events(Event) -> [event(Event)].

event(Event) ->
    io_lib:format("  ~5ts  ~ts  ~ts  ~ts  ~0tp",
                  [text(field(version, Event)), time(field(timestamp, Event)),
                   text(field(event_type, Event)), text(field(event_id, Event)),
                   field(data, Event)]).

field(Field, #event{} = Event) ->
    case Field of
        event_id -> Event#event.event_id;
        event_type -> Event#event.event_type;
        version -> Event#event.version;
        timestamp -> Event#event.timestamp;
        data -> Event#event.data
    end;
field(Field, Event) when is_map(Event) ->
    maps:get(Field, Event, undefined);
field(data, Event) ->
    Event;
field(_Field, _Event) ->
    undefined.

%% Stores write times in milliseconds; any other value is shown unchanged.
time(Ms) when is_integer(Ms), Ms >= 0, Ms < 253402300800000 ->
    calendar:system_time_to_rfc3339(Ms, [{unit, millisecond}, {offset, "Z"}]);
time(Other) ->
    text(Other).

%% @doc Returns a line for each edge of a graph.
-spec graph(term()) -> [iodata()].
graph(#{edges := Edges} = Graph) ->
    [["  around ", text(maps:get(root, Graph, undefined))]
     | [["  ", text(From), " -> ", text(To)] || {From, To} <- edges(Edges)]];
graph(Other) ->
    term(Other).

%% @doc Returns a graph in the language of Graphviz. Long ids are shortened in labels.
-spec dot(map()) -> binary().
dot(Graph) ->
    Root = maps:get(root, Graph, undefined),
    Nodes = [[quoted(field(event_id, Node)), " [label=", label(Node), bold(Node, Root), "];\n"]
             || Node <- maps:get(nodes, Graph, [])],
    Edges = [[quoted(From), " -> ", quoted(To), ";\n"]
             || {From, To} <- edges(maps:get(edges, Graph, []))],
    unicode:characters_to_binary(["digraph causation {\n",
                                  [["  ", Line] || Line <- Nodes ++ Edges], "}\n"]).

edges(Edges) ->
    [case Edge of
         #{from := From, to := To} -> {From, To};
         {_, _} -> Edge;
         {From, To, _} -> {From, To}
     end || Edge <- Edges].

label(Node) ->
    quoted([text(field(event_type, Node)), " ", short(text(field(event_id, Node)))]).

short(Text) ->
    case string:length(Text) > ?SHORT of
        true -> [string:slice(Text, 0, ?SHORT), "..."];
        false -> Text
    end.

bold(Node, Root) ->
    case field(event_id, Node) of
        Root -> ", penwidth=2";
        _ -> ""
    end.

quoted(Term) ->
    Text = text(Term),
    [$", string:replace(string:replace(Text, "\\", "\\\\", all), "\"", "\\\"", all), $"].

%% @doc Returns a term in as many lines as it needs.
-spec term(term()) -> [iodata()].
term(Term) ->
    Lines = string:split(io_lib:format("~tp", [Term]), "\n", all),
    [["  ", Line] || Line <- Lines].

%% @doc Returns a value for people: text is shown without quotation marks.
-spec text(term()) -> unicode:chardata().
text(undefined) -> "-";
text(Value) when is_binary(Value) ->
    case unicode:characters_to_list(Value) of
        List when is_list(List) -> List;
        _ -> io_lib:format("~tp", [Value])
    end;
text(Value) ->
    case is_list(Value) andalso is_chardata(Value) of
        true -> Value;
        false -> io_lib:format("~tp", [Value])
    end.

is_chardata(Value) ->
    try unicode:characters_to_list(Value) of
        List -> is_list(List)
    catch
        error:badarg -> false
    end.
